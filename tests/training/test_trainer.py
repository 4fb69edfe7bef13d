"""The learning rate and the training loop."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from open_clip_train.scheduler import cosine_lr
from torch import nn

from clip_decomp.data.pairs import PairBatch
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import SettingError, TrainingFailed
from clip_decomp.training.trainer import TrainSettings, train

# --- the learning rate ------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_decays():
    settings = TrainSettings(steps=1000, warmup=100, decay=0.3)
    assert settings.rate(0) == 0.01
    assert settings.rate(49) == 0.5
    assert {settings.rate(step) for step in range(99, 701)} == {1.0}
    assert settings.rate(850) == pytest.approx(0.5)
    assert settings.rate(999) == pytest.approx(1 / 300)


def test_the_rate_without_warm_up_or_decay():
    flat = TrainSettings(steps=10, warmup=0, decay=0.0)
    assert [flat.rate(step) for step in range(10)] == [1.0] * 10
    falling = TrainSettings(steps=10, warmup=0, decay=1.0)
    assert [falling.rate(step) for step in range(10)] == pytest.approx([1 - k / 10 for k in range(10)])


def test_a_cosine_warms_up_and_falls_to_zero_as_open_clips_does():
    settings = TrainSettings(steps=200, warmup=20, schedule="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = cosine_lr(optimizer, 1.0, 20, 200)
    assert [settings.rate(step) for step in range(200)] == pytest.approx([theirs(step) for step in range(200)])


def test_a_cosine_without_and_with_nothing_but_warm_up():
    falling = TrainSettings(steps=4, warmup=0, schedule="cosine")
    assert [falling.rate(step) for step in range(4)] == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    rising = TrainSettings(steps=4, warmup=4, schedule="cosine")
    assert [rising.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"decay": 1.1},
        {"decay": -0.1},
        {"patch_dropout": 1.0},
        {"patch_dropout": -0.1},
        {"warmup": -1},
        {"whole": 2.0},
        {"checkpoint_every": 0},
        {"accumulate": 0},
        {"accumulate": 257},
        {"schedule": "constant"},
        {"negatives": "none"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SettingError, match="Need "):
        TrainSettings(**({"steps": 10} | wrong))


# --- the loop ---------------------------------------------------------------------------------------------------------


class Recorded:
    """Batches drawn once, so that training costs nothing but training; can be interrupted before a step."""

    def __init__(self, stop=None):
        self.stop, self.asked = stop, []

    def batch(self, step, size, part=slice(None)):
        self.asked.append(step)
        if step == self.stop:
            raise KeyboardInterrupt
        return BATCHES.setdefault((step, size), WorldPairs(seed=1).batch(step, size))

    def corpus(self):
        return ["a banana"]


BATCHES: dict[tuple[int, int], PairBatch] = {}


def normalize(pixels):
    return (pixels - 0.5) / 0.25


def settings(**changes):
    base = {"steps": 6, "batch_size": 8, "lr": 3e-3, "muon_lr": 2e-3, "warmup": 2, "checkpoint_every": 2, "bf16": False}
    return TrainSettings(**(base | changes))


def run(clip, tokenize, folder=None, stream=None, **changes):
    options = {"monitor": changes.pop("monitor", None), "progress": False}
    return train(clip, tokenize, normalize, stream or Recorded(), settings(**changes), folder, **options)


def test_the_loss_falls(clip, tokenize):
    class Same(Recorded):
        def batch(self, step, size, part=slice(None)):
            return super().batch(0, size)

    (start,) = run(copy.deepcopy(clip), tokenize, stream=Same(), steps=1)
    history = run(clip, tokenize, stream=Same(), steps=60, warmup=5)
    assert [entry["step"] for entry in history] == [50, 60]
    assert history[-1]["loss"] < 0.5 * start["loss"]
    assert history[-1]["samples_per_second"] > 0


@pytest.mark.parametrize("muon_lr", [None, 2e-3])
def test_every_weight_is_trained(muon_lr, clip, tokenize):
    before = copy.deepcopy(clip)
    run(clip, tokenize, muon_lr=muon_lr)
    unmoved = [
        name for (name, a), b in zip(clip.named_parameters(), before.parameters(), strict=True) if torch.equal(a, b)
    ]
    assert unmoved == []


def test_frozen_weights_stay(clip, tokenize):
    clip.lock_text_tower()
    clip.visual.proj.requires_grad_(False)
    before = copy.deepcopy(clip)
    run(clip, tokenize)
    for (name, a), b in zip(clip.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b) == (not a.requires_grad), name


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"muon_lr": None},
        {"patch_dropout": 0.5, "whole": 0.2},
        {"bf16": True},
        {"schedule": "cosine", "accumulate": 3, "patch_dropout": 0.5},
    ],
    ids=["muon", "adamw", "patch dropout", "bf16", "cosine, accumulated"],
)
def test_an_interrupted_run_resumes_to_the_same_weights(stop, options, clip, tokenize, tmp_path, equal):
    whole, part = copy.deepcopy(clip), copy.deepcopy(clip)
    torch.manual_seed(1)
    history = run(whole, tokenize, tmp_path / "whole", **options)
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        run(part, tokenize, tmp_path / "part", Recorded(stop), **options)
    # A new process: other random numbers, and weights that the checkpoint replaces.
    torch.manual_seed(3)
    fresh, stream = copy.deepcopy(clip), Recorded()
    if stop > 2:
        with torch.no_grad():
            fresh.visual.proj.add_(1)
    resumed = run(fresh, tokenize, tmp_path / "part", stream, **options)
    assert stream.asked[0] == stop // 2 * 2  # from the last checkpoint on
    assert equal(fresh, whole)
    assert [(entry["step"], entry["loss"]) for entry in resumed] == [(e["step"], e["loss"]) for e in history]


def test_a_finished_run_is_not_run_again_and_may_be_prolonged(clip, tokenize, tmp_path, equal):
    run(clip, tokenize, tmp_path)
    stream = Recorded()
    again = copy.deepcopy(clip)
    run(again, tokenize, tmp_path, stream)
    assert stream.asked == []
    assert equal(again, clip)
    history = run(again, tokenize, tmp_path, stream, steps=8)
    assert stream.asked == [6, 7]
    assert [entry["step"] for entry in history] == [2, 4, 6, 8]


def test_training_does_not_depend_on_the_global_generator_and_leaves_it_alone(clip, tokenize, equal):
    first, second = copy.deepcopy(clip), copy.deepcopy(clip)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    run(first, tokenize, patch_dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    run(second, tokenize, patch_dropout=0.5)
    assert equal(first, second)


def test_patch_dropout_sees_part_of_the_patches_and_at_the_end_all(clip, tokenize):
    seen = []
    clip.visual.transformer.resblocks[0].ln_1.register_forward_hook(
        lambda module, args, output: seen.append(args[0].shape[1])
    )
    run(clip, tokenize, steps=10, patch_dropout=0.75, whole=0.2)
    assert seen == [5] * 8 + [17] * 2  # the class token and 4 of 16 patches, then all of them
    assert isinstance(clip.visual.patch_dropout, nn.Identity)
    with torch.no_grad():
        clip.train()
        assert clip.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    assert seen[-1] == 17


def test_an_interrupt_leaves_no_patch_dropout_behind(clip, tokenize):
    with pytest.raises(KeyboardInterrupt):
        run(clip, tokenize, stream=Recorded(stop=1), patch_dropout=0.75)
    assert isinstance(clip.visual.patch_dropout, nn.Identity)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(training, clip, tokenize):
    clip.train(training)
    run(clip, tokenize, steps=2)
    assert {module.training for module in clip.modules()} == {training}
    with pytest.raises(KeyboardInterrupt):
        run(clip, tokenize, stream=Recorded(stop=0))
    assert {module.training for module in clip.modules()} == {training}


def test_the_temperature_stays_in_clips_range(clip, tokenize):
    with torch.no_grad():
        clip.logit_scale.fill_(9.0)
    run(clip, tokenize, steps=1, muon_lr=None, lr=0.0)
    assert clip.logit_scale.item() == pytest.approx(math.log(100), abs=1e-3)


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_checkpoint(clip, tokenize, tmp_path):
    class Blank(Recorded):
        def batch(self, step, size, part=slice(None)):
            batch = super().batch(step, size)
            # From step 4 on nothing is true of anything: the mean over no positives is not a number.
            return batch if step < 4 else replace(batch, truth=batch.truth * 0 - 2, said=batch.said * 0)

    with pytest.raises(TrainingFailed, match="The loss became nan at step 4: lower the learning rate"):
        run(clip, tokenize, tmp_path, Blank())
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 4
    assert all(torch.isfinite(value).all() for value in clip.state_dict().values())


def test_broken_weights_end_training(clip, tokenize):
    with torch.no_grad():
        clip.visual.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingFailed, match="at step 0"):
        run(clip, tokenize)


def test_a_gradient_that_is_not_finite_ends_training_before_it_is_applied(clip, tokenize):
    clip.visual.ln_post.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = copy.deepcopy(clip)
    with pytest.raises(
        TrainingFailed, match=r"The gradient's norm became (nan|inf) at step 0: lower the learning rate"
    ):
        run(clip, tokenize)
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{"lr": 1e-3}, {"schedule": "cosine"}, {"seed": 5}, {"batch_size": 6}])
def test_a_folder_with_another_run_is_refused(changes, clip, tokenize, tmp_path):
    run(clip, tokenize, tmp_path, steps=2)
    stream = Recorded()
    with pytest.raises(SettingError, match="holds a checkpoint of another run"):
        run(clip, tokenize, tmp_path, stream, **{"steps": 4} | changes)
    assert stream.asked == []


def test_seconds_add_up_over_interrupts(clip, tokenize, tmp_path):
    first = run(clip, tokenize, tmp_path, steps=2)
    second = run(clip, tokenize, tmp_path, steps=4)
    assert [entry["seconds"] for entry in second] == sorted(entry["seconds"] for entry in second)
    assert second[0]["seconds"] == first[0]["seconds"] > 0


def test_monitors_measure_in_evaluation_mode_at_every_checkpoint(clip, tokenize, tmp_path):
    calls = []

    def monitor(model, step):
        calls.append((step, model.training))
        return {"accuracy": step / 10}

    history = run(clip, tokenize, tmp_path, monitor=monitor, steps=5, checkpoint_every=2)
    assert calls == [(2, False), (4, False), (5, False)]
    assert [(entry["step"], entry["accuracy"]) for entry in history] == [(2, 0.2), (4, 0.4), (5, 0.5)]
    written = json.loads((tmp_path / "train.json").read_text())
    assert written["log"] == history
    assert written["settings"]["steps"] == 5
