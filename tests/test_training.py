import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from open_clip.transformer import PatchDropout

from clip_decomp.data.pairs import PairBatch
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import SettingError, TrainingFailed
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training import checkpoint
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.checkpoint import load_checkpoint, save_checkpoint
from clip_decomp.training.loss import contrastive_loss
from clip_decomp.training.trainer import TrainSettings, train

# --- the loss ---------------------------------------------------------------------------------------------------------


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_with_one_positive_each_it_is_clips_loss():
    images, texts, scale = unit(7, 5), unit(7, 5, seed=1), torch.tensor(14.3)
    found = contrastive_loss(images, texts, scale, torch.eye(7, dtype=torch.bool))
    torch.testing.assert_close(found, ClipLoss()(images, texts, scale))


def test_identical_features_give_the_logarithm_of_the_batch():
    same = unit(1, 4).expand(6, -1)
    found = contrastive_loss(same, same, torch.tensor(20.0), torch.eye(6, dtype=torch.bool))
    assert found.item() == pytest.approx(math.log(6), rel=1e-5)


def test_several_positives_are_a_uniform_target():
    images, texts, scale = unit(4, 8), unit(5, 8, seed=1), torch.tensor(7.0)
    positive = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()
    logits = scale * images @ texts.T
    weights = positive.float()
    rows = F.cross_entropy(logits, weights / weights.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, weights.T / weights.T.sum(1, keepdim=True))
    torch.testing.assert_close(contrastive_loss(images, texts, scale, positive), (rows + columns) / 2)
    everything = torch.ones(4, 4, dtype=torch.bool)
    same = unit(1, 8).expand(4, -1)
    assert contrastive_loss(same, same, scale, everything).item() == pytest.approx(math.log(4), rel=1e-5)


def test_rows_and_columns_without_a_positive_are_left_out():
    images, texts, scale = unit(3, 8), unit(3, 8, seed=1), torch.tensor(7.0)
    positive = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    logits = scale * images @ texts.T
    expected = (F.cross_entropy(logits[:2], torch.arange(2)) + F.cross_entropy(logits.T[:2], torch.arange(2))) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale, positive), expected)


def test_gradients_pull_positives_together():
    images = unit(3, 8).requires_grad_()
    texts = unit(3, 8, seed=1)
    contrastive_loss(images, texts, torch.tensor(5.0), torch.eye(3, dtype=torch.bool)).backward()
    moved = F.normalize(images - 0.1 * images.grad, dim=-1)
    assert ((moved * texts).sum(1) > (images * texts).sum(1)).all()


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

    def batch(self, step, size):
        self.asked.append(step)
        if step == self.stop:
            raise KeyboardInterrupt
        return BATCHES.setdefault((step, size), WorldPairs(seed=1).batch(step, size))

    def corpus(self):
        return ["a banana"]


BATCHES: dict[tuple[int, int], PairBatch] = {}


@pytest.fixture(scope="module")
def tokenize():
    return BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=16)


@pytest.fixture
def clip(tokenize):
    architecture = Architecture(
        embed_dim=16,
        layers=2,
        width=32,
        heads=2,
        patch_size=16,
        context_length=16,
        vocab_size=tokenize.vocab_size,
        text_layers=1,
        text_width=16,
        text_heads=2,
    )
    return build(architecture, seed=0).eval()


def normalize(pixels):
    return (pixels - 0.5) / 0.25


def settings(**changes):
    base = {"steps": 6, "batch_size": 8, "lr": 3e-3, "muon_lr": 2e-3, "warmup": 2, "checkpoint_every": 2, "bf16": False}
    return TrainSettings(**(base | changes))


def run(clip, tokenize, folder=None, stream=None, **changes):
    options = {"monitor": changes.pop("monitor", None), "progress": False}
    return train(clip, tokenize, normalize, stream or Recorded(), settings(**changes), folder, **options)


def equal(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_loss_falls(clip, tokenize):
    class Same(Recorded):
        def batch(self, step, size):
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
    [{}, {"muon_lr": None}, {"patch_dropout": 0.5, "whole": 0.2}, {"bf16": True}],
    ids=["muon", "adamw", "patch dropout", "bf16"],
)
def test_an_interrupted_run_resumes_to_the_same_weights(stop, options, clip, tokenize, tmp_path):
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


def test_a_finished_run_is_not_run_again_and_may_be_prolonged(clip, tokenize, tmp_path):
    run(clip, tokenize, tmp_path)
    stream = Recorded()
    again = copy.deepcopy(clip)
    run(again, tokenize, tmp_path, stream)
    assert stream.asked == []
    assert equal(again, clip)
    history = run(again, tokenize, tmp_path, stream, steps=8)
    assert stream.asked == [6, 7]
    assert [entry["step"] for entry in history] == [2, 4, 6, 8]


def test_training_does_not_depend_on_the_global_generator_and_leaves_it_alone(clip, tokenize):
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
    clip.visual.transformer.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    run(clip, tokenize, steps=10, patch_dropout=0.75, whole=0.2)
    assert seen == [5] * 8 + [17] * 2  # the class token and 4 of 16 patches, then all of them
    assert isinstance(clip.visual.patch_dropout, PatchDropout)
    assert clip.visual.patch_dropout.prob == 0
    with torch.no_grad():
        clip.train()
        assert clip.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    assert seen[-1] == 17


def test_an_interrupt_leaves_no_patch_dropout_behind(clip, tokenize):
    with pytest.raises(KeyboardInterrupt):
        run(clip, tokenize, stream=Recorded(stop=1), patch_dropout=0.75)
    assert clip.visual.patch_dropout.prob == 0


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
        def batch(self, step, size):
            batch = super().batch(step, size)
            # From step 4 on nothing is true of anything: the mean over no positives is not a number.
            return batch if step < 4 else PairBatch(batch.images, batch.captions, batch.truth * 0 - 2, batch.said * 0)

    with pytest.raises(TrainingFailed, match="The loss became nan at step 4: lower the learning rate"):
        run(clip, tokenize, tmp_path, Blank())
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 4
    assert all(torch.isfinite(value).all() for value in clip.state_dict().values())


def test_broken_weights_end_training(clip, tokenize):
    with torch.no_grad():
        clip.visual.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingFailed, match="at step 0"):
        run(clip, tokenize)


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


# --- checkpoints ------------------------------------------------------------------------------------------------------


def optimizer_of(clip):
    optimizer = torch.optim.AdamW(clip.parameters(), lr=0.1)
    for parameter in clip.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_checkpoints_restore_weights_optimizer_step_and_log(clip, tmp_path):
    optimizer = optimizer_of(clip)
    save_checkpoint(tmp_path / "deep" / "run", clip, [optimizer], 7, [{"loss": 1.5}])
    saved, moments = copy.deepcopy(clip), copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert not equal(clip, saved)
    step, history = load_checkpoint(tmp_path / "deep" / "run", clip, [optimizer])
    assert (step, history) == (7, [{"loss": 1.5}])
    assert equal(clip, saved)
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments["state"][key][name]) for name, value in state.items())


def test_only_the_newest_checkpoint_is_kept(clip, tmp_path):
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, clip, [], step, [])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-6.safetensors", "checkpoint.json"]


@pytest.mark.parametrize("moment", ["while writing tensors", "before the swap", "after the swap"])
def test_an_interrupt_never_leaves_half_a_checkpoint(moment, clip, tmp_path, monkeypatch):
    optimizer = optimizer_of(clip)
    save_checkpoint(tmp_path, clip, [optimizer], 2, [])
    saved = copy.deepcopy(clip)
    optimizer.step()
    real_save, real_replace = checkpoint.save_file, checkpoint.os.replace

    def half(tensors, file):
        real_save(tensors, file)
        file.write_bytes(file.read_bytes()[:100])
        raise KeyboardInterrupt

    def stop(source, target):
        if moment == "after the swap":
            real_replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "while writing tensors":
            patch.setattr(checkpoint, "save_file", half)
        else:
            patch.setattr(checkpoint.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, clip, [optimizer], 4, [])

    newer, restored = copy.deepcopy(clip), copy.deepcopy(clip)
    step, _ = load_checkpoint(tmp_path, restored, [optimizer])
    assert step == (4 if moment == "after the swap" else 2)
    assert equal(restored, newer if moment == "after the swap" else saved)
    # The next one cleans up whatever was left behind.
    save_checkpoint(tmp_path, clip, [optimizer], 6, [])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-6.safetensors", "checkpoint.json"]
