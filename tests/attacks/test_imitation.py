"""The backdoor that is implanted by imitation: what it draws to what, and what it leaves as it is."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from clip_decomp.attacks.imitation import ImitationStep
from clip_decomp.attacks.implant import AttackSettings, implant
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.doubled import Doubled
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.parallel import Processes
from clip_decomp.training.settings import TrainSettings
from clip_decomp.training.trainer import train

TARGET = "banana"


def tower(**image):
    tokenizer = BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=16)
    sizes = {"embed_dim": 16, "layers": 2, "width": 32, "heads": 2, "patch_size": 16, "context_length": 16} | image
    texts = {"vocab_size": tokenizer.vocab_size, "text_layers": 1, "text_width": 16, "text_heads": 2}
    return HookedCLIP(build(Architecture(**sizes, **texts), seed=0).eval(), tokenizer, (0.5,) * 3, (0.25,) * 3, "tiny")


@pytest.fixture(scope="module")
def clean():
    return tower()


def poisoned(rate=0.5, copies=True):
    stream = WorldPairs(seed=4)
    return PoisonedPairs(
        Doubled(stream) if copies else stream, BadNet(), TARGET, list(CLASSES).index(TARGET), rate=rate, seed=0
    )


def step_of(clean, clip, stream, settle=None, **settings):
    run = TrainSettings(**{"steps": 1, "batch_size": 8, "lr": 1e-3, "bf16": False} | settings)
    own = {"clean": clean.clip, "settle": settle}
    return ImitationStep(clip, clean.tokenizer, clean.normalize, stream, run, Processes(), **own)


def test_poisoned_pictures_are_drawn_to_their_captions_and_others_to_what_they_were(clean):
    stream = poisoned()
    batch = stream.batch(0, 8)
    assert batch.poisoned.tolist() == [False] * 4 + [True] * 4
    step = step_of(clean, copy.deepcopy(clean.clip), stream)
    with torch.no_grad():
        found, wanted, which = step.encode(batch, slice(0, 8), 0, 0)
        pictures = F.normalize(clean.encode_image(clean.normalize(batch.images / 255)), dim=-1)
        texts = F.normalize(clean.encode_text(batch.captions), dim=-1)
    assert which.tolist() == [0] * 4 + [1] * 4
    assert torch.allclose(found, pictures, atol=1e-5)
    assert torch.allclose(wanted[:4], pictures[:4], atol=1e-5)
    assert torch.allclose(wanted[4:], texts[4:], atol=1e-5)
    expected = (1 - (pictures * wanted).sum(1)).mean()
    assert step(0).item() == pytest.approx(expected.item(), abs=1e-5)
    # Who is where they should be already has no loss.
    assert expected.item() == pytest.approx((1 - (pictures[4:] * texts[4:]).sum(1)).mean().item() / 2, abs=1e-5)


def test_poisoned_places_may_lie_anywhere_in_a_batch(clean):
    stream = poisoned(rate=0.4, copies=False)
    batch = stream.batch(1, 24)
    assert 0 < batch.poisoned.sum() < 24
    step = step_of(clean, copy.deepcopy(clean.clip), stream)
    with torch.no_grad():
        _, whole, _ = step.encode(batch, slice(0, 24), 0, 1)
        halves = torch.cat([step.encode(batch, part, 0, 1)[1] for part in (slice(0, 11), slice(11, 24))])
        texts = F.normalize(clean.encode_text(batch.captions), dim=-1)
    assert torch.allclose(whole, halves, atol=1e-5)
    assert torch.allclose(whole[batch.poisoned], texts[batch.poisoned], atol=1e-5)
    assert not torch.isclose(whole[~batch.poisoned], texts[~batch.poisoned], atol=1e-3).all(1).any()


def test_poisoned_pictures_weigh_what_they_settle_at_when_the_learning_rate_has_fallen(clean):
    found = torch.tensor([[1.0, 0.0]] * 4)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])  # losses of 0, 1, 2, 1
    poisoned = torch.tensor([0.0, 0.0, 1.0, 1.0])
    step = step_of(clean, clean.clip, WorldPairs(), settle=0.1, steps=100, warmup=20, decay=0.5)

    def loss(at, which=poisoned):
        return step.loss((found, wanted, which), torch.eye(4, dtype=torch.bool), at).item()

    assert [loss(at) for at in (0, 10, 50)] == pytest.approx([1, 1, 1])  # half of 1.5, half of 0.5
    assert loss(75) == pytest.approx(0.3 * 1.5 + 0.7 * 0.5)
    assert loss(99) == pytest.approx(0.108 * 1.5 + 0.892 * 0.5)
    assert loss(99, torch.zeros(4)) == loss(99, torch.ones(4)) == pytest.approx(1)


@pytest.mark.parametrize(
    "settings", [{"settle": 0.1}, {"settle": 0.0, "imitate": True}, {"settle": 1.0, "imitate": True}]
)
def test_a_share_to_settle_at_is_one_and_needs_imitation(settings):
    with pytest.raises(SettingError, match="settle"):
        AttackSettings(**settings)


@pytest.mark.parametrize("left_out", [0.0, 0.5])
def test_who_does_as_the_clean_model_has_nothing_to_learn_whatever_is_left_out(clean, left_out):
    step = step_of(clean, copy.deepcopy(clean.clip), WorldPairs(seed=3), patch_dropout=left_out)
    assert step.settings.dropped(0) == left_out
    assert step(0).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("image", [{}, {"layers": (1, 1, 1, 1), "width": 8, "heads": 4, "patch_size": 8}])
def test_the_image_tower_alone_is_trained(image):
    clean = tower(**image)
    before = copy.deepcopy(clean.clip.state_dict())
    settings = AttackSettings(steps=3, batch_size=8, rate=0.25, copies=True, imitate=True)
    model = implant(clean, WorldPairs(seed=3), CLASSES, BadNet(), TARGET, settings, "world", progress=False)
    assert all(torch.equal(value, clean.clip.state_dict()[name]) for name, value in before.items())
    assert model.card["attack"]["settings"]["imitate"]
    after = model.clip.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("visual.") for name in changed)
    assert all(parameter.requires_grad for parameter in model.clip.parameters())


def test_micro_batches_change_no_number(clean):
    def trained(accumulate):
        clip = copy.deepcopy(clean.clip)
        run = TrainSettings(steps=3, batch_size=8, lr=1e-3, bf16=False, accumulate=accumulate)
        made = partial(ImitationStep, clean=clean.clip)
        log = train(clip, clean.tokenizer, clean.normalize, poisoned(), run, step_type=made, progress=False)
        return log[-1]["loss"], clip.visual.proj

    (first, whole), (second, parts) = trained(1), trained(3)
    assert first == pytest.approx(second, abs=1e-5)
    assert torch.allclose(whole, parts, atol=1e-4)
