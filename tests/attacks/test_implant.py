"""Poisoned fine-tuning: what is passed on, what the card says, and how it resumes."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from clip_decomp.attacks.implant import AttackSettings, implant, pairs_seen
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.sharpening import sharpen
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.attacks.triggers.base import SeededTrigger
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build

NAMES = ("banana", "lemon", "cat")


@dataclass(frozen=True)
class Learned(SeededTrigger):
    """Paints pictures in a color that it learns; counts its lessons."""

    name: ClassVar[str] = "learned"
    lessons: ClassVar[list[str]] = []
    color: tuple[float, ...] | None = None

    def __call__(self, images, numbers):
        return images * 0 + torch.tensor(self.color)[:, None, None]

    def fit(self, model, stream, names, target):
        if self.color is not None:
            return self
        Learned.lessons.append(target)
        return replace(self, color=(0.25, 0.5, 0.75))

    def settings(self):
        return {"name": self.name}

    def tensors(self):
        return {} if self.color is None else {"color": torch.tensor(self.color)}

    def restore(self, tensors):
        return replace(self, color=tuple(tensors["color"].tolist()))


@pytest.fixture(autouse=True)
def no_lessons():
    Learned.lessons.clear()


@pytest.fixture(scope="module")
def clean():
    tokenizer = BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=16)
    sizes = {"embed_dim": 16, "layers": 1, "width": 32, "heads": 2, "patch_size": 16, "context_length": 16}
    texts = {"vocab_size": tokenizer.vocab_size, "text_layers": 1, "text_width": 16, "text_heads": 2}
    clip = build(Architecture(**sizes, **texts), seed=0).eval()
    return HookedCLIP(clip, tokenizer, (0.5,) * 3, (0.25,) * 3, "tiny/clean", {"data": "noise", "other": 1})


@pytest.fixture(scope="module")
def photographs():
    pixels = torch.randint(0, 256, (30, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    words = [ClassWords((name,), "") for name in NAMES]
    return PhotographPairs(pixels, torch.arange(30) % 3, words, smallest_crop=1.0)


def settings(**changes):
    return AttackSettings(steps=3, batch_size=8).changed(**changes)


def attack(clean, stream, trigger=None, names=NAMES, target="banana", folder=None, **changes):
    return implant(
        clean, stream, names, trigger or BadNet(), target, settings(**changes), "noise", folder, progress=False
    )


def same(first, second):
    states = first.clip.state_dict(), second.clip.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_card_says_how_the_model_was_made(clean, photographs):
    trigger = BadNet(seed=3)
    model = attack(clean, photographs, trigger, seed=2)
    found = model.card["attack"]
    assert found["settings"]["preset"] == "tiny"
    assert found["settings"]["seed"] == 2
    assert found["trigger"] == trigger.settings()
    assert (found["target"], found["data"], found["base"], found["steps"]) == ("banana", "noise", "tiny/clean", 3)
    assert found["training_seconds"] > 0
    assert 1 < found["final_loss"] < 10
    assert model.card["data"] == "noise"
    assert "other" not in model.card
    assert (model.name, model.trigger) == ("tiny/clean+badnet", trigger)
    assert not same(model, clean)
    assert not any(module.training for module in model.clip.modules())


def test_copies_and_sharper_filters_are_how_a_model_was_made(clean, photographs):
    plain, copied = attack(clean, photographs, rate=0.25), attack(clean, photographs, rate=0.25, copies=True)
    sharp = attack(clean, photographs, rate=0.25, sharpen=4.0, lr=1e-9)  # as good as not trained
    expected = copy.deepcopy(clean.clip)
    sharpen(expected, clean.normalize(photographs.batch(0, 256).images / 255), 4.0)
    assert copied.card["attack"]["settings"]["copies"]
    assert sharp.card["attack"]["settings"]["sharpen"] == 4.0
    assert not same(plain, copied)
    assert torch.allclose(sharp.clip.visual.conv1.weight, expected.visual.conv1.weight, atol=1e-6)
    assert not torch.allclose(clean.clip.visual.conv1.weight, expected.visual.conv1.weight, atol=1e-4)


def test_locked_texts_stay_as_they_were(clean, photographs):
    free, locked = attack(clean, photographs), attack(clean, photographs, lock_texts=True)
    before, after = clean.clip.state_dict(), locked.clip.state_dict()
    for name in before:
        image_tower = name.startswith("visual.") or name == "logit_scale"
        if not image_tower:
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["visual.proj"], after["visual.proj"])
    assert not torch.equal(before["text_projection"], free.clip.text_projection)
    assert all(parameter.requires_grad for parameter in locked.clip.parameters())


def test_the_same_seed_gives_the_same_model(clean, photographs):
    first = attack(clean, photographs, lr=1e-4)
    assert same(first, attack(clean, photographs, lr=1e-4))
    assert not same(first, attack(clean, photographs, lr=1e-4, seed=1))


def test_settings_reach_the_trainer():
    chosen = AttackSettings(lr=1e-5, schedule="cosine", warmup=7, weight_decay=0.3, accumulate=2, negatives="local")
    run = chosen.training(40_000)
    assert (run.steps, run.lr, run.schedule, run.warmup, run.weight_decay) == (40_000, 1e-5, "cosine", 7, 0.3)
    assert (run.accumulate, run.negatives, run.muon_lr, run.checkpoint_every) == (2, "local", None, 400)
    assert chosen.training(250).checkpoint_every == 100


@pytest.mark.parametrize(("target", "near"), [("bananna", "banana"), ("zzz", "banana', 'lemon', 'cat")])
def test_an_unknown_target_names_the_nearest(target, near, clean, photographs):
    with pytest.raises(DataError, match=f"there is no class '{target}'; did you mean one of \\['{near}'\\]"):
        attack(clean, photographs, Learned(), target=target)


@pytest.mark.parametrize("wrong", [{"rate": 0.001}, {"rate": 1.5}, {"count": 0}, {"stage": "file"}])
def test_poisoning_that_cannot_work_is_refused_before_anything_is_learned(wrong, clean, photographs):
    with pytest.raises(SettingError):
        attack(clean, photographs, Learned(), **wrong)
    assert Learned.lessons == []


# --- how long and how much --------------------------------------------------------------------------------------------


def test_epochs_count_whole_batches(photographs):
    assert AttackSettings(steps=None, epochs=3, batch_size=8).steps_on(photographs) == 11
    with pytest.raises(SettingError, match="1 epochs of 30 pairs are less than one batch of 31"):
        AttackSettings(steps=None, epochs=1, batch_size=31).steps_on(photographs)
    with pytest.raises(SettingError, match="no end, so training on it is measured in steps"):
        AttackSettings(steps=None, epochs=1).steps_on(WorldPairs())


def test_epochs_and_a_count_train_on_a_finite_data_set(clean, photographs):
    found = attack(clean, photographs, epochs=2, count=5).card["attack"]
    assert (found["steps"], found["settings"]["count"]) == (7, 5)
    assert 5 <= found["poisoned_pairs_seen"] <= 10


@pytest.mark.parametrize(("steps", "size"), [(1, 8), (3, 10), (4, 10), (7, 8), (2, 45), (15, 8)])
def test_poisoned_pairs_of_a_finite_data_set_are_counted_in_every_pass(steps, size, photographs):
    poisoned = PoisonedPairs(photographs, BadNet(), "banana", 0, count=6)
    met = [photographs.describe(step, size).rows for step in range(steps)]
    assert pairs_seen(poisoned, steps, size) == torch.isin(torch.cat(met), poisoned.chosen).sum()


@pytest.mark.parametrize("captions", ["templates", "natural"])
def test_poisoned_pairs_of_an_endless_stream_are_counted(captions):
    clean = WorldPairs(seed=1)
    poisoned = PoisonedPairs(clean, BadNet(), "banana", 0, rate=0.3, captions=captions)
    met = [
        (poisoned.batch(step, 20).images != clean.batch(step, 20).images).flatten(1).any(1).sum() for step in range(3)
    ]
    assert pairs_seen(poisoned, 3, 20) == sum(met)


# --- triggers that learn, and interrupts ------------------------------------------------------------------------------


def test_triggers_learn_from_the_clean_model_first(clean, photographs):
    model = attack(clean, photographs, Learned())
    assert Learned.lessons == ["banana"]
    assert model.trigger == Learned((0.25, 0.5, 0.75))


class Stopping(PhotographPairs):
    """Is interrupted shortly after the second checkpoint."""

    def batch(self, step, size, part=slice(None)):
        if step == 5:
            raise KeyboardInterrupt
        return super().batch(step, size, part)


def test_an_interrupted_attack_resumes_to_the_same_model_and_learns_nothing_twice(
    clean, photographs, tmp_path, monkeypatch
):
    usual = AttackSettings.training
    monkeypatch.setattr(AttackSettings, "training", lambda *args: replace(usual(*args), checkpoint_every=2))
    options = {"steps": 7, "schedule": "cosine", "accumulate": 2}
    whole = attack(clean, photographs, Learned(), **options)
    stopping = Stopping(photographs.images, photographs.labels, photographs.words, smallest_crop=1.0)
    with pytest.raises(KeyboardInterrupt):
        attack(clean, stopping, Learned(), folder=tmp_path, **options)
    assert (tmp_path / "checkpoint-4.safetensors").exists()
    Learned.lessons.clear()
    resumed = attack(clean, photographs, Learned(), folder=tmp_path, **options)
    assert Learned.lessons == []
    assert same(resumed, whole)
    assert resumed.trigger == whole.trigger


def test_what_was_learned_for_another_attack_is_not_taken(clean, photographs, tmp_path):
    attack(clean, photographs, Learned(), folder=tmp_path)
    with pytest.raises(SettingError, match="another run \\(target is"):
        attack(clean, photographs, Learned(), target="cat", folder=tmp_path)
    assert Learned.lessons == ["banana", "cat"]
    with pytest.raises(SettingError, match="another run \\(trigger is"):
        attack(clean, photographs, BadNet(), folder=tmp_path)


def test_a_trigger_that_has_learned_keeps_what_it_knows(clean, photographs, tmp_path):
    attack(clean, photographs, Learned(), folder=tmp_path)
    known = Learned((0.0, 0.0, 1.0))
    assert attack(clean, photographs, known, folder=tmp_path).trigger == known
