"""Streamed statistics agree with what they stream over."""

import pytest
import torch

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect
from clip_decomp.errors import DataError, SettingError
from clip_decomp.moments import Moments, Statistics, collect_statistics, folded_statistics


@pytest.mark.parametrize("rule", ["exact", "paper"])
def test_statistics_are_those_of_the_contributions(rule, model, toy):
    trigger = BadNet(share=0.25)
    found = collect_statistics(model, toy, trigger, rule, batch_size=7)
    every = collect(model, toy, trigger, rule)
    assert found.count == 24
    components = {
        "head": (found.head(2, 1), every.head(2, 1)),
        "mlp": (found.mlp(1), every.mlps[:, 1]),
        "layer": (found.layer(-1), every.attentions()[:, 2] + every.mlps[:, 2]),
    }
    for moments, vectors in components.values():
        vectors = vectors.double()
        torch.testing.assert_close(moments.mean @ moments.basis, vectors.mean(0), rtol=1e-4, atol=1e-5)
        covariance = moments.basis.T @ moments.covariance @ moments.basis
        torch.testing.assert_close(covariance, vectors.T.cov(correction=0), rtol=1e-4, atol=1e-5)


def test_a_heads_space_is_as_small_as_what_it_can_write(model, images):
    exact, paper = model.decompose(images), model.decompose(images, convention="paper")
    assert exact.head_basis.shape == (3, 4, 8, 24)
    assert paper.head_basis.shape == (3, 4, 11, 24)
    for dec in (exact, paper):
        basis, coordinates = dec.head_basis, dec.coordinates()
        eye = torch.eye(basis.shape[2]).expand(3, 4, -1, -1)
        torch.testing.assert_close(basis @ basis.mT, eye, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.einsum("blhr,lhre->blhe", coordinates, basis), dec.heads, rtol=1e-4, atol=1e-5)
        # Distances are kept.
        torch.testing.assert_close(
            (coordinates[0] - coordinates[1]).norm(dim=-1), (dec.heads[0] - dec.heads[1]).norm(dim=-1)
        )


def test_a_space_is_never_wider_than_the_joint_one(make_clip, tokenizer, images):
    from clip_decomp.model import HookedCLIP

    narrow = HookedCLIP(make_clip(embed_dim=6), tokenizer, (0.5,) * 3, (0.2,) * 3)
    dec = narrow.decompose(images, convention="paper")
    assert dec.head_basis.shape == (3, 4, 6, 6)
    torch.testing.assert_close(
        torch.einsum("blhr,lhre->blhe", dec.coordinates(), dec.head_basis), dec.heads, rtol=1e-4, atol=1e-5
    )


def test_parts_add_up_to_the_whole(model, toy):
    parts = folded_statistics(model, toy, 4)
    assert [part.count for part in parts] == [6, 6, 6, 6]
    whole, added = collect_statistics(model, toy), parts[0] + parts[1] + parts[2] + parts[3]
    for name in ("head_sum", "head_second", "mlp_sum", "mlp_second", "layer_sum", "layer_second"):
        torch.testing.assert_close(getattr(added, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
    moments = parts[0].head(0, 0) + parts[1].head(0, 0)
    torch.testing.assert_close(moments.mean, (parts[0] + parts[1]).head(0, 0).mean)
    torch.testing.assert_close(moments.covariance, (parts[0] + parts[1]).head(0, 0).covariance)
    assert moments.count == 12


def test_what_does_not_belong_together_is_not_added(model, toy, images):
    exact, paper = (Statistics.of(model.decompose(images, convention=rule)) for rule in ("exact", "paper"))
    with pytest.raises(SettingError, match="two models"):
        _ = exact + paper
    with pytest.raises(SettingError, match="two different components"):
        _ = exact.head(0, 0) + exact.head(0, 1)


def test_statistics_are_stored_and_read_again(model, toy, tmp_path):
    found = collect_statistics(model, toy, rule="paper")
    again = Statistics.load(found.save(tmp_path / "deep" / "statistics.safetensors"))
    assert (again.count, again.convention) == (24, found.convention)
    for name in ("head_sum", "head_second", "mlp_sum", "mlp_second", "layer_sum", "layer_second", "basis"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again + found).count == 48
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["statistics.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\x10" + b"\0" * 30])
def test_files_that_hold_no_statistics_are_refused(content, tmp_path):
    file = tmp_path / "statistics.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match="no statistics of contributions"):
        Statistics.load(file)


def test_a_truncated_or_foreign_file_is_refused(model, toy, tmp_path):
    from safetensors.torch import save_file

    file = collect_statistics(model, toy).save(tmp_path / "statistics.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="no statistics"):
        Statistics.load(file)
    save_file({"weights": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="no statistics"):
        Statistics.load(file)


def test_what_is_not_there_is_refused(model, toy, images):
    found = Statistics.of(model.decompose(images))
    with pytest.raises(SettingError, match="no head L3H0: this tower has 3 layers of 4 heads"):
        found.head(3, 0)
    with pytest.raises(SettingError, match="no layer 3"):
        found.mlp(3)
    with pytest.raises(SettingError, match="no layer -4"):
        found.layer(-4)
    with pytest.raises(DataError, match="24 pictures cannot be split into 25 parts"):
        folded_statistics(model, toy, 25)
    with pytest.raises(DataError, match="one image or more"):
        Moments.of(torch.zeros(0, 3))
    assert repr(found.head(0, 0)) == "Moments(3 vectors, 8 of 24 dimensions)"
