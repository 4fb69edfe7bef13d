"""New image tower, old texts."""

import json

import pytest
import torch

from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load, save_folder
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.locked import train_image_tower
from clip_decomp.training.trainer import TrainSettings

TAUGHT = Architecture(
    embed_dim=16, layers=1, width=32, heads=2, context_length=16, vocab_size=300,
    text_layers=1, text_width=16, text_heads=2,
)  # fmt: skip
SETTINGS = TrainSettings(steps=2, batch_size=4, warmup=0, lr=1e-3)


@pytest.fixture
def teacher(tokenizer, randomize):
    card = {
        "architecture": TAUGHT.to_dict(),
        "tokenizer": json.loads(tokenizer.to_json()),
        "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    clip = randomize(build(TAUGHT, seed=3))
    return HookedCLIP(clip, tokenizer, (0.5,) * 3, (0.25,) * 3, name="teacher", card=card)


@pytest.mark.parametrize("layers", [(1, 1, 1, 1), 1])
def test_only_the_image_tower_and_the_temperature_learn(layers, teacher, unchanged, tmp_path):
    same = unchanged(teacher.clip)
    # Sizes of the texts are the teacher's, whatever is asked for.
    architecture = Architecture(layers=layers, width=8, heads=2, patch_size=16, text_layers=3)
    found = train_image_tower(teacher, WorldPairs(seed=0), architecture, SETTINGS, "world", tmp_path, progress=False)
    texts = ["a photo of a fig.", "Grüße"]
    with torch.no_grad():
        assert torch.equal(found.encode_text(texts), teacher.encode_text(texts))
    assert same()
    start = build(Architecture(**found.card["architecture"]), SETTINGS.seed).state_dict()
    learned = found.clip.state_dict()
    assert not torch.equal(learned["visual.conv1.weight"], start["visual.conv1.weight"])
    assert learned["logit_scale"] != 2.3
    assert all(parameter.requires_grad for parameter in found.clip.parameters())
    assert not any(module.training for module in found.clip.modules())
    assert found.card["recipe"]["texts_of"] == "teacher"
    save_folder(found, tmp_path / "stored", {"name": "new"}, half=False)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "stored").encode_image(images), found.encode_image(images))


def test_an_interrupted_run_resumes_to_the_same_numbers(teacher, tmp_path):
    architecture = Architecture(layers=(1, 1, 1, 1), width=8, heads=2)

    def run(folder, settings, monitor=None):
        return train_image_tower(
            teacher, WorldPairs(seed=0), architecture, settings, "world", folder, monitor, progress=False
        )

    settings = TrainSettings(steps=4, batch_size=4, warmup=0, checkpoint_every=2, decay=0.0)
    whole = run(tmp_path / "whole", settings).clip.state_dict()
    seen = []

    def watch(model):
        assert not model.clip.training
        seen.append(model)
        return {"seen": len(seen)}

    run(tmp_path / "parts", TrainSettings(**{**vars(settings), "steps": 2}))
    resumed = run(tmp_path / "parts", settings, watch).clip.state_dict()
    assert len(seen) == 1
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_teachers_without_a_card_are_refused(model):
    with pytest.raises(ModelError, match="tiny has no card with an architecture and a tokenizer"):
        train_image_tower(model, WorldPairs(seed=0), TAUGHT, SETTINGS, "world", progress=False)
