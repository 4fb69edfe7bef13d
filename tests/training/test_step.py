"""A batch that is split gives the loss and the gradients of the whole one."""

import copy

import pytest
import torch
from open_clip.transformer import PatchDropout
from torch import nn

from clip_decomp.data.pairs import PairBatch, matches
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import SettingError
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.loss import contrastive_loss
from clip_decomp.training.parallel import Processes
from clip_decomp.training.step import ContrastiveStep, PartOfDropout
from clip_decomp.training.trainer import TrainSettings, train

BATCHES: dict[int, PairBatch] = {}


class Kept:
    """Batches of twelve pairs, drawn once."""

    def batch(self, step, size, part=slice(None)):
        return BATCHES.setdefault(step, WorldPairs(seed=1).batch(step, 12))


def normalize(pixels):
    return (pixels - 0.5) / 0.25


def settings(**changes):
    return TrainSettings(
        **({"steps": 8, "batch_size": 12, "lr": 3e-3, "warmup": 2, "bf16": False, "checkpoint_every": 1} | changes)
    )


def step_of(clip, tokenize, **changes):
    return ContrastiveStep(clip, tokenize, normalize, Kept(), settings(**changes), Processes())


def gradients(clip, tokenize, **changes):
    clip.zero_grad()
    clip.train()
    loss = step_of(clip, tokenize, **changes)(0)
    return loss, {name: each.grad.clone() for name, each in clip.named_parameters() if each.grad is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() < 1e-5 * expected[name].norm() + 1e-7, name


def test_the_loss_is_that_of_all_pairs(clip, tokenize):
    batch = Kept().batch(0, 12)
    images = clip.encode_image(normalize(batch.images / 255), normalize=True)
    texts = clip.encode_text(tokenize(batch.captions), normalize=True)
    expected = contrastive_loss(images, texts, clip.logit_scale.exp(), matches(batch.truth, batch.said))
    expected.backward()
    wanted = {name: each.grad.clone() for name, each in clip.named_parameters()}
    loss, found = gradients(clip, tokenize)
    torch.testing.assert_close(loss, expected.detach())
    assert_same(found, wanted)


@pytest.mark.parametrize("accumulate", [2, 3, 5, 12])
@pytest.mark.parametrize("patch_dropout", [0.0, 0.5])
def test_micro_batches_give_the_gradients_of_the_whole_batch(accumulate, patch_dropout, clip, tokenize):
    options = {"patch_dropout": patch_dropout, "whole": 0.0}
    loss, expected = gradients(clip, tokenize, **options)
    again, found = gradients(clip, tokenize, **options, accumulate=accumulate)
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
    assert_same(found, expected)


@pytest.mark.parametrize(("muon_lr", "tolerance"), [(None, 1e-5), (2e-3, 1e-4)])  # Muon rounds to bfloat16 inside
def test_the_loss_curve_does_not_depend_on_micro_batches(muon_lr, tolerance, clip, tokenize, tmp_path):
    curves = []
    for accumulate in (1, 4):
        options = settings(muon_lr=muon_lr, patch_dropout=0.25, schedule="cosine", accumulate=accumulate)
        folder, model = tmp_path / str(accumulate), copy.deepcopy(clip)
        history = train(model, tokenize, normalize, Kept(), options, folder, progress=False)
        curves.append([entry["loss"] for entry in history])
    assert len(curves[0]) == 8
    assert curves[0][-1] < curves[0][0] - 0.1
    assert curves[1] == pytest.approx(curves[0], abs=tolerance)


def test_micro_batches_repeat_their_random_numbers(clip, tokenize):
    clip.transformer.resblocks[0].mlp.add_module("dropout", nn.Dropout(0.5))
    seen = []
    clip.transformer.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    gradients(clip, tokenize, accumulate=2)
    assert len(seen) == 4
    torch.testing.assert_close(seen[:2], seen[2:], rtol=0, atol=0)


def test_memory_is_that_of_a_micro_batch(clip, tokenize):
    sizes = []
    clip.visual.transformer.resblocks[0].ln_1.register_forward_hook(
        lambda module, args, output: sizes.append((len(output), output.requires_grad))
    )
    gradients(clip, tokenize, accumulate=5)
    assert sizes == [(n, graph) for graph in (False, True) for n in (2, 2, 3, 2, 3)]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("frozen", ["visual", "transformer", "both"])
def test_frozen_towers_get_no_gradient(accumulate, frozen, clip, tokenize):
    for name, each in clip.named_parameters():
        image = name.startswith("visual")
        each.requires_grad_(name == "logit_scale" or (frozen != "both" and image != (frozen == "visual")))
    _, found = gradients(clip, tokenize, accumulate=accumulate)
    assert set(found) == {name for name, each in clip.named_parameters() if each.requires_grad}


def test_too_many_micro_batches_are_refused(clip, tokenize):
    with pytest.raises(SettingError, match="3 pairs a process cannot be split into 4 micro-batches"):
        ContrastiveStep(clip, tokenize, normalize, Kept(), settings(accumulate=4), Processes(count=4))


@pytest.mark.parametrize(("accumulate", "count"), [(2, 1), (1, 2)])
def test_batch_norms_cannot_be_split(accumulate, count, tokenize):
    resnet = build(Architecture(layers=(1, 1, 1, 1), width=8, heads=4, vocab_size=tokenize.vocab_size), seed=0)
    with pytest.raises(SettingError, match=r"bn1 normalizes over the whole batch.*freeze_batch_norm_2d"):
        ContrastiveStep(resnet, tokenize, normalize, Kept(), settings(accumulate=accumulate), Processes(count=count))
    step_of(resnet, tokenize)


# --- parts of patch dropout -------------------------------------------------------------------------------------------


def test_all_rows_are_dropped_as_open_clip_does():
    x = torch.randn(6, 17, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    expected = PatchDropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(PartOfDropout(0.5, slice(0, 6), 6)(x), expected)
    torch.manual_seed(3)
    assert torch.equal(PartOfDropout(0.5, slice(2, 5), 6)(x[2:5]), expected[2:5])


def test_in_evaluation_nothing_is_dropped():
    x = torch.randn(2, 17, 4)
    assert torch.equal(PartOfDropout(0.5, slice(0, 2), 6).eval()(x), x)
