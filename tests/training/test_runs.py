"""``clip-decomp train``: other towers, against the texts of a model that is there, and from class names alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from clip_decomp.errors import SettingError
from clip_decomp.models.loading import load
from clip_decomp.training import runs


@pytest.fixture
def pictures(tmp_path):
    """Three classes of ten pictures."""
    random = np.random.default_rng(0)
    for name in ("apple", "banana", "key"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(10):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path / "data"


@pytest.fixture
def trained(monkeypatch):
    """What a tower is trained with, instead of training it."""
    seen = {}

    def note(teacher, stream, architecture, settings, name, **options):
        seen.update(teacher=teacher.name, stream=stream, architecture=architecture, settings=settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train_image_tower", note)
    return seen


def test_a_resnet_learns_photographs_against_texts_that_stay(pictures, tmp_path):
    like, texts_of = "world-resnet/clean", "world/clean"
    found = runs.train_model(str(pictures), tmp_path / "out", steps=1, like=like, texts_of=texts_of)
    assert found is not None
    model, metrics, counts = found
    teacher = load(texts_of)
    assert type(model.clip.visual).__name__ == "ModifiedResNet"
    own, theirs = model.clip.state_dict(), teacher.clip.state_dict()
    texts = [name for name in theirs if not name.startswith("visual.") and name != "logit_scale"]
    assert texts
    assert all(torch.equal(own[name], theirs[name]) for name in texts)
    assert counts["test"] == 24
    assert [key.endswith("/clean/none/ca") for key in metrics].count(True) == 1


def test_class_names_alone_where_the_model_to_be_like_has_no_more(pictures, tmp_path, trained):
    for like, plain in (("world-labels/clean", 1.0), ("world-p16/clean", 0.3)):
        with pytest.raises(KeyboardInterrupt):
            runs.train_model(str(pictures), tmp_path / "out", steps=100, like=like, texts_of="world/clean")
        assert trained["stream"].plain == plain
        assert trained["stream"].gentle_from == 78
        assert trained["settings"].steps == 100
        assert trained["settings"].patch_dropout == 0.5
    assert trained["architecture"].patch_size == 16
    assert trained["teacher"] == "world/clean"


def test_the_world_trains_what_its_recipe_says(tmp_path, trained):
    with pytest.raises(KeyboardInterrupt):
        runs.train_model("world", tmp_path, steps=5, like="world-resnet/clean", seed=3)
    assert (trained["teacher"], trained["stream"].seed, trained["stream"].curriculum) == ("world/clean", 3, 400)
    assert trained["settings"].batch_size == 128


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"like": "world/badnet"}, "no recipe of a clean model"),
        ({"like": "world-p16/clean"}, "--texts-of"),
    ],
)
def test_what_cannot_be_trained_is_said_first(pictures, tmp_path, options, said):
    with pytest.raises(SettingError, match=said):
        runs.train_model(str(pictures), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_captions_are_not_class_names(pictures, tmp_path):
    (tmp_path / "pairs.csv").write_text(f"filepath\ttitle\n{pictures}/key/0.png\ta key\n")
    with pytest.raises(SettingError, match="labelled pictures"):
        runs.train_model(
            str(pictures),
            tmp_path / "out",
            pairs=str(tmp_path / "pairs.csv"),
            like="world-labels/clean",
            texts_of="world/clean",
        )
