"""A model that recalls its decompositions: the same numbers from fewer passes, and their time still told."""

import pytest
import torch

from analyses import filtering, recalling
from analyses.filtering import Measurement, measurements, run
from analyses.recalling import Recalling
from clip_decomp.convention import EXACT, PAPER
from defenses import DecompRep


@pytest.fixture
def passes(model, monkeypatch):
    """Grows with every pass through the image tower."""
    found, forward = [], model.visual.forward
    monkeypatch.setattr(model.visual, "forward", lambda *args: found.append(len(args[0])) or forward(*args))
    return found


def test_what_was_decomposed_is_recalled_by_content_and_convention(model, images, passes):
    kept = Recalling(model)
    first = kept.decompose(images)
    saved = kept.saved
    assert kept.decompose(images.clone()).z is first.z
    assert kept.saved > saved
    assert kept.decompose(images, convention=EXACT).z is first.z
    assert passes == [3]
    assert torch.equal(kept.decompose(images, convention=PAPER).sum(), model.decompose(images, convention=PAPER).sum())
    other = images.clone()
    other[0, 0, 0, 0] += 1e-3
    assert not torch.equal(kept.decompose(other).sum(), first.sum())
    assert len(kept.decompose(images[:2])) == 2
    assert kept.decompose(images, tokens=True).values is not None


def test_no_more_is_kept_than_asked_for(model, images, passes):
    kept = Recalling(model, most=4)
    for _ in range(2):
        kept.decompose(images)
        kept.decompose(images + 1)
    assert passes == [3, 3, 3]
    assert Recalling(model, most=0).decompose(images).z.shape == kept.decompose(images).z.shape


def test_what_was_projected_is_not_kept(model, images):
    kept = Recalling(model)
    for _ in range(2):
        dec = kept.decompose(images)
        assert "heads" not in vars(dec)
        assert dec.heads.shape[0] == 3


def test_repairs_that_share_decompositions_give_the_same(model, toy, images, passes):
    kept, plain = Recalling(model), {}
    for name in ("heads", "mlps", "auto"):
        plain[name] = DecompRep(name).fit(model, toy).encode_image(images)
    passes.clear()
    for name, expected in plain.items():
        assert torch.equal(DecompRep(name).fit(kept, toy).encode_image(images), expected)
    assert sum(passes) == len(toy) + len(images)


def test_seconds_of_a_repair_count_the_decompositions_that_it_was_spared(monkeypatch, tmp_path):
    every = {each.name: each for each in measurements()}
    share = every["decomp-rep;components=heads;effect=direct;share=0.05"]
    twice = [every["none"], share, Measurement(f"{share.name};again", share.measure)]
    monkeypatch.setattr(filtering, "measurements", lambda without=(): twice)
    monkeypatch.setattr(filtering, "Clock", lambda: lambda: 0.0)  # so that only what was recalled takes time
    monkeypatch.setattr(recalling, "Clock", lambda: lambda: 1.0)  # a pass, and a look for it
    _, first, second = (each["numbers"] for each in run(["world/badnet"], None, tmp_path, images=52, calibration=80))
    batches = 2  # of 52 pictures, clean and triggered
    assert first["seconds-per-image"] == -batches / (2 * 52)  # without looking for them
    assert second["seconds-per-image"] == 0.0  # a pass more, a look less
    assert {**first, "seconds-per-image": 0.0} == {**second, "seconds-per-image": 0.0}
