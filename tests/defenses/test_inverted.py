"""Noise that is known is not computed again, whatever happens to the run."""

import pytest
import torch

from clip_decomp.errors import DataError
from defenses import CBPT
from defenses import cbpt as cbpt_module
from defenses.cbpt import Inverted as Kept
from defenses.inversion import Inversion

NAMES = ("apple", "pear", "plum", "fig")


@pytest.fixture
def fit(model, monkeypatch):
    """Tune for seven epochs, two of them warm-up, and count the pictures whose noise was computed."""
    pictures = model.normalize(torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    counted = []
    inner = cbpt_module.invert_trigger

    def counting(model, images, positive, settings, **rest):
        counted.append(len(images))
        return inner(model, images, positive, settings, **rest)

    monkeypatch.setattr(cbpt_module, "invert_trigger", counting)

    def run(positives="farthest", **settings):
        counted.clear()
        inversion = None if "aim" in settings else Inversion(steps=2, positives=positives)
        cbpt = CBPT(2, shots=3, epochs=7, warmup=2, batch_size=5, lr=0.2, inversion=inversion, bf16=False,
                    progress=False, **settings).fit(model, pictures, torch.arange(12) % 4, NAMES)  # fmt: skip
        return cbpt, sum(counted)

    return run


def test_known_noise_is_used_again_and_changes_nothing_but_roundings(fit):
    once, computed = fit()
    anew = [epoch["inverted"] * 12 for epoch in once.history_[2:]]
    assert anew[0] == pytest.approx(12)
    assert sum(anew) == pytest.approx(computed)
    assert computed < 5 * 12
    always, more = fit(keep_noise=False)
    assert more == 5 * 12
    torch.testing.assert_close(once.prompts_.context, always.prompts_.context, rtol=1e-3, atol=1e-4)


def test_aimed_at_one_class_no_picture_is_inverted_and_each_is_perturbed_once(fit, monkeypatch):
    asked, call = [], Kept.__call__

    def listening(self, rows, wanted, generator):
        asked.extend(zip(rows.tolist(), wanted.tolist(), strict=True))
        return call(self, rows, wanted, generator)

    monkeypatch.setattr(Kept, "__call__", listening)
    cbpt, computed = fit(aim="plum")
    assert computed == 0
    assert {goal for _, goal in asked} == {2}
    assert [epoch["inverted"] for epoch in cbpt.history_[2:]] == [1, 0, 0, 0, 0]
    with pytest.raises(DataError, match=r"no class 'plumb'.*plum"):
        fit(aim="plumb")


def test_random_positives_are_drawn_anew_in_every_epoch(fit):
    cbpt, computed = fit("random")
    assert computed == 5 * 12
    assert all(epoch["inverted"] == pytest.approx(1) for epoch in cbpt.history_[2:])


@pytest.mark.parametrize("after", [3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bits(fit, tmp_path, monkeypatch, after):
    whole, computed = fit(checkpoint=tmp_path / "whole")
    save, saved = Kept.save, []

    def stopped(self, file, label):
        save(self, file, label)
        saved.append(file)
        if len(saved) == after:  # what the checkpoint of this epoch needs is there, the checkpoint is not
            raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=tmp_path / "run")
    monkeypatch.setattr(Kept, "save", save)
    again, rest = fit(checkpoint=tmp_path / "run")
    assert torch.equal(again.prompts_.context, whole.prompts_.context)
    assert rest < computed


def test_another_runs_noise_is_not_taken(fit, tmp_path):
    fit(checkpoint=tmp_path)
    (tmp_path / "checkpoint.json").unlink()
    _, computed = fit(checkpoint=tmp_path)
    assert computed < 12
    (tmp_path / "checkpoint.json").unlink()
    _, computed = fit(checkpoint=tmp_path, weight_bd=0.1)
    assert computed >= 12
