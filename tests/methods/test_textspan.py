"""TEXTSPAN against the reference code's numbers, the published algorithm, and cases with known answers."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from clip_decomp.cli.bench.published import published_textspan
from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.textspan import textspan
from clip_decomp.moments import Moments


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fading(n, d, seed=0):
    """Data whose dimensions vary less and less, away from the origin."""
    return normal(n, d, seed=seed) * torch.linspace(0, -3, d).exp() + 0.2


def test_the_reference_codes_choices_and_reconstruction(golden):
    found = load_file(golden / "textspan.safetensors")
    expected = json.loads((golden / "textspan.json").read_text())
    result = textspan(found["data"], found["texts"], expected["iterations"], expected["rank"])
    assert result.indices.tolist() == expected["selected"]
    # The file holds the last image's reconstruction in every row (its rows share one memory).
    torch.testing.assert_close(result.reconstruction[-1], found["reconstruction"][-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "d", "rank", "n_texts"), [(300, 40, 40, 20), (300, 40, 12, 12), (60, 50, 25, 10)])
def test_the_published_algorithms_choices(n, d, rank, n_texts):
    data, texts = fading(n, d), F.normalize(normal(200, d, seed=1), dim=-1)
    chosen, reconstruction = published_textspan(data.double(), texts.double(), n_texts, rank)
    result = textspan(data, texts, n_texts, rank)
    assert result.indices.tolist() == chosen
    torch.testing.assert_close(result.reconstruction.double(), reconstruction, rtol=1e-4, atol=1e-5)
    assert (result.rank, result.count) == (rank, n)


def test_texts_of_any_length_are_taken_as_they_are():
    data, texts = fading(200, 16), normal(50, 16, seed=2) * (1 + normal(50, 1, seed=3).abs())
    chosen, _ = published_textspan(data.double(), texts.double(), 8, 16)
    assert textspan(data, texts, 8, 16).indices.tolist() == chosen


def test_planted_directions_are_found_in_their_order():
    texts = torch.linalg.qr(normal(32, 32)).Q
    strengths = {7: 5.0, 21: 3.0, 4: 2.0}
    data = sum(s * normal(400, 1, seed=k) * texts[k] for k, s in strengths.items()) + 0.01 * normal(400, 32, seed=9)
    result = textspan(data, texts, n_texts=3, rank=32, texts=[f"text {k}" for k in range(32)])
    assert result.indices.tolist() == [7, 21, 4]
    assert result.texts == ("text 7", "text 21", "text 4")
    assert result.explained_variance_ratio.sum() > 0.999
    variances = torch.stack([(data @ texts[k]).var(correction=0) for k in (7, 21, 4)])
    torch.testing.assert_close(result.explained_variance, variances.double(), rtol=1e-3, atol=0)


def test_only_what_is_new_in_a_text_counts():
    # The second text is nearly the first; the third points where little happens, but somewhere new.
    texts = F.normalize(torch.tensor([[1.0, 0, 0], [1.0, 0.1, 0], [0, 0, 1.0]]), dim=-1)
    data = normal(500, 3) * torch.tensor([5.0, 0.1, 1.0])
    assert textspan(data, texts, 2, 3).indices.tolist() == [0, 2]


def test_directions_are_orthonormal_and_explain_what_they_say():
    data, texts = fading(300, 24), normal(100, 24, seed=5)
    result = textspan(data, texts, 10, 24)
    torch.testing.assert_close(
        result.directions @ result.directions.T, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-9
    )
    left = (data.double() - result.reconstruct(data.double())).var(0, correction=0).sum()
    assert left / result.total_variance == pytest.approx(1 - result.explained_variance_ratio.sum().item(), abs=1e-9)


def test_moments_give_what_the_data_gives():
    data, texts = fading(300, 24), normal(100, 24, seed=5)
    whole, streamed = textspan(data, texts, 10), textspan(Moments.of(data[:100]) + Moments.of(data[100:]), texts, 10)
    assert whole.indices.tolist() == streamed.indices.tolist()
    torch.testing.assert_close(whole.explained_variance, streamed.explained_variance)
    torch.testing.assert_close(whole.reconstruction, streamed.reconstruct(data))
    with pytest.raises(SettingError, match="no images to reconstruct"):
        _ = streamed.reconstruction
    assert textspan(data.numpy(), texts, 10).indices.tolist() == whole.indices.tolist()


def test_a_heads_own_space_gives_what_the_joint_space_gives():
    basis = torch.linalg.qr(normal(40, 8)).Q.T
    coordinates, texts = fading(200, 8, seed=3), F.normalize(normal(80, 40, seed=4), dim=-1)
    joint = textspan(coordinates @ basis, texts, 20, 80)
    own = textspan(Moments.of(coordinates, basis), texts, 20, 80)
    assert own.indices.tolist() == joint.indices.tolist()
    # Eight dimensions are explained by eight texts, whatever was asked for.
    assert (len(own), own.rank, joint.rank) == (8, 8, 8)
    assert own.explained_variance_ratio.sum() == pytest.approx(1)
    torch.testing.assert_close(own.directions, joint.directions, rtol=1e-4, atol=1e-4)


def test_texts_end_when_nothing_is_left_to_explain():
    line = normal(50, 1) * torch.tensor([1.0, 2.0, 0.0])
    assert len(textspan(line, normal(30, 3, seed=1), 20)) == 1
    # Two texts, one direction: the second repeats the first.
    assert len(textspan(normal(50, 3), torch.tensor([[1.0, 0, 0], [2.0, 0, 0]]), 20)) == 1


def test_the_span_is_of_uncentered_data():
    # All pictures share a large constant along x: the leading direction of uncentered data, in which nothing varies.
    data = torch.tensor([10.0, 0, 0]) + normal(200, 3) * torch.tensor([0.0, 1.0, 0.5])
    assert textspan(data, torch.eye(3), 1, rank=2).indices.tolist() == [1]
    with pytest.raises(DataError, match="constant"):
        textspan(torch.tensor([10.0, 1.0, 2.0]).expand(20, 3), torch.eye(3), 1)


def test_inputs_are_left_alone():
    data, texts = fading(100, 12), normal(40, 12)
    before = data.clone(), texts.clone()
    textspan(data, texts, 5)
    assert torch.equal(data, before[0])
    assert torch.equal(texts, before[1])


def test_results_become_tables():
    result = textspan(fading(100, 4), torch.eye(4), 2, texts=["<b>red</b>", "blue", "green", "gray"])
    frame = result.to_frame()
    assert list(frame.columns) == ["text", "index", "explained_variance_ratio"]
    assert frame["text"][0] == "<b>red</b>"
    assert "&lt;b&gt;red" in result._repr_html_()
    assert list(textspan(fading(100, 4), torch.eye(4), 2).to_frame()["text"]) == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contributions": torch.ones(30, 8)}, "constant"),
        ({"contributions": normal(7, 8)}, "7 images cannot span rank 8"),
        ({"contributions": normal(1, 8)}, "1 images cannot span"),
        ({"contributions": normal(30, 8).index_fill(0, torch.tensor([3]), torch.nan)}, "1 of 30 contributions are NaN"),
        ({"contributions": normal(30, 2, 8)}, r"not \[30, 2, 8\]"),
        ({"contributions": normal(0, 8)}, r"not \[0, 8\]"),
        ({"contributions": np.full((30, 8), np.inf)}, "30 of 30 contributions"),
        ({"text_features": normal(20, 9)}, r"must be \[text, 8\], not \[20, 9\]"),
        ({"text_features": torch.full((20, 8), float("nan"))}, "Text features hold NaN"),
        ({"n_texts": 0}, "n_texts and rank"),
        ({"rank": 0}, "n_texts and rank"),
        ({"texts": ["one"]}, "1 texts for 20 text features"),
    ],
)
def test_what_cannot_be_explained_is_refused(change, message):
    with pytest.raises((DataError, SettingError), match=message):
        textspan(**{"contributions": normal(30, 8), "text_features": normal(20, 8), **change})
