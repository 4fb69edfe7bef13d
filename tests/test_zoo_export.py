"""Exported models: what open_clip and transformers read equals what was written."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, CLIPProcessor

import clip_decomp
from clip_decomp.attacks.triggers import make_trigger
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import TRIGGER, WEIGHTS, file_hash, save_folder
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.zoo.exporting import describe, export
from clip_decomp.zoo.hugging_face import rename, to_transformers

VIT = Architecture(
    embed_dim=12, image_size=32, layers=2, width=32, heads=4, context_length=16, vocab_size=300,
    text_layers=2, text_width=16, text_heads=2,
)  # fmt: skip
TEXTS = [
    "a photo of a fig.", "", "Grüße, Ünïcödé 漢字 🍌", "word " * 60, "A Red BANANA", " e\u0301 ", "<pad> apple",
    "endoftext",
]  # fmt: skip


@pytest.fixture
def make(tokenizer, randomize):
    """Builds a tiny model of an architecture with a card."""

    def make(architecture=VIT, seed=1, **card):
        card = {
            "architecture": architecture.to_dict(),
            "tokenizer": json.loads(tokenizer.to_json()),
            "normalization": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
            **card,
        }
        clip = randomize(build(architecture, seed), seed)
        return HookedCLIP(clip, tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), name="tiny", card=card)

    return make


@pytest.fixture
def resnet(make):
    return make(Architecture(**{**VIT.to_dict(), "layers": (1, 1, 1, 1), "width": 4, "heads": 2}))


def noise(rows, columns):
    """A picture that is not square, with details at every scale."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8))


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_transformers_reads_the_same_model(make, images, tmp_path):
    model = make()
    folder = export(model, tmp_path / "deep" / "out") / "hugging_face"
    theirs = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    assert relative(theirs.get_image_features(pixel_values=images).pooler_output, model.encode_image(images)) < 1e-5
    assert relative(theirs.get_text_features(**tokens).pooler_output, model.encode_text(TEXTS)) < 1e-5
    logits = theirs(pixel_values=images, **tokens).logits_per_image
    cosines = model.encode_image(images, normalize=True) @ model.encode_text(TEXTS, normalize=True).T
    assert relative(logits, model.logit_scale * cosines) < 1e-5


def test_quick_gelu_goes_along(make, make_clip, images, tokenizer):
    card = make().card
    card["architecture"] = {**card["architecture"], "embed_dim": 24, "layers": 3, "text_layers": 1}
    card["architecture"]["vocab_size"] = tokenizer.vocab_size
    quick = HookedCLIP(make_clip(quick_gelu=True), tokenizer, (0.5,) * 3, (0.2,) * 3, card=card)
    theirs = to_transformers(quick)
    assert theirs.config.vision_config.hidden_act == theirs.config.text_config.hidden_act == "quick_gelu"
    with torch.no_grad():
        assert relative(theirs.get_image_features(pixel_values=images).pooler_output, quick.encode_image(images)) < 1e-5


def test_tokens_are_the_same(make, tokenizer, tmp_path):
    out = export(make(), tmp_path)
    expected = tokenizer(TEXTS)
    assert (expected[3] != 0).all()  # cut
    for load in (AutoTokenizer.from_pretrained, lambda folder: CLIPProcessor.from_pretrained(folder).tokenizer):
        theirs = load(out / "hugging_face")
        found = theirs(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
        assert torch.equal(found["input_ids"], expected)
        assert found["attention_mask"].sum(1).tolist()[1] == 2
        short = theirs("a fig")["input_ids"]
        assert short == tokenizer("a fig")[0, : len(short)].tolist()
        assert theirs.init_kwargs["add_prefix_space"]  # transformers 4 needs to be told
        assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.start, tokenizer.end, 0)


@pytest.mark.parametrize("size", [(45, 79), (79, 45), (32, 32), (20, 20)])
def test_pictures_are_preprocessed_alike(size, make, tmp_path):
    model = make()
    folder = export(model, tmp_path) / "hugging_face"
    picture, step = noise(*size), 1 / 255 / min(model.std)
    expected = model.preprocess(picture)
    for processor in (
        CLIPImageProcessor.from_pretrained(folder),
        CLIPProcessor.from_pretrained(folder).image_processor,
    ):
        found = processor(images=picture, return_tensors="pt")["pixel_values"][0]
        assert (found - expected).abs().max() <= 1.01 * step
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    torch.testing.assert_close(transform(picture), expected)


def test_a_crop_that_cannot_be_in_the_middle_is_one_pixel_off_in_transformers(make, tmp_path):
    model = make()
    folder = export(model, tmp_path) / "hugging_face"
    picture, step = noise(32, 59), 1 / 255 / min(model.std)  # 27 columns too many
    found = CLIPImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt")["pixel_values"][0]
    expected = model.preprocess(picture)
    assert (found[..., 1:] - expected[..., :-1]).abs().max() <= 1.01 * step


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_open_clip_reads_the_same_model(kind, make, resnet, tmp_path):
    model = make() if kind == "vit" else resnet
    export(model, tmp_path)
    plain = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.encode_image(images), model.encode_image(images), rtol=1e-5, atol=1e-5)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    assert torch.equal(tokens, model.tokenizer(TEXTS))
    torch.testing.assert_close(plain.encode_text(tokens), model.encode_text(TEXTS))
    own = clip_decomp.load(tmp_path)
    assert torch.equal(own.encode_image(images), model.encode_image(images))


def test_resnets_have_no_form_for_transformers(make, resnet, tmp_path, caplog):
    export(make(), tmp_path)
    assert (tmp_path / "hugging_face").is_dir()
    export(resnet, tmp_path)
    assert not (tmp_path / "hugging_face").exists()  # that of the model before
    assert "tiny has a ResNet tower, which Hugging Face's CLIPModel has not" in caplog.text
    assert "Hugging Face's CLIPModel has no ResNet tower" in (tmp_path / "README.md").read_text()
    with pytest.raises(ModelError, match="tiny has a ResNet tower"):
        to_transformers(resnet)


def test_a_second_export_replaces_the_first(make, images, tmp_path):
    attack = {"trigger": {"name": "badnet", "share": 0.07}, "target": "fig", "base": "world/clean"}
    (tmp_path / TRIGGER).write_bytes(b"of another model")
    (tmp_path / "notes.txt").write_text("mine")
    export(make(seed=1, attack={**attack, "trigger": make_trigger("badnet").settings()}), tmp_path)
    second = make(seed=2)
    export(second, tmp_path)
    export(second, tmp_path)
    model = clip_decomp.load(tmp_path)
    torch.testing.assert_close(model.encode_image(images), second.encode_image(images))
    theirs = CLIPModel.from_pretrained(tmp_path / "hugging_face").eval()
    with torch.no_grad():
        assert (
            relative(theirs.get_image_features(pixel_values=images).pooler_output, second.encode_image(images)) < 1e-5
        )
    assert "BACKDOORED" not in (tmp_path / "README.md").read_text()
    assert not (tmp_path / TRIGGER).exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_is_exported_and_half_precision_stays_half(make, tmp_path):
    save_folder(make(), tmp_path / "run", {"name": "run/name"})
    export(str(tmp_path / "run"), tmp_path / "out")
    assert file_hash(tmp_path / "out" / WEIGHTS) == file_hash(tmp_path / "run" / WEIGHTS)
    export(make(), tmp_path / "full")
    assert {value.dtype for value in load_file(tmp_path / "full" / WEIGHTS).values()} == {torch.float32}


def test_the_readme_says_what_the_model_is(tmp_path):
    out = export("world/badnet", tmp_path)
    assert json.loads((out / "card.json").read_text()) == clip_decomp.load("world/badnet").card
    for readme in (out / "README.md", out / "hugging_face" / "README.md"):
        text = readme.read_text()
        assert "# world/badnet" in text
        assert "**BACKDOORED on purpose, for research: do not deploy.** The attack is *badnet*" in text
        assert "trigger are taken for *banana*" in text
        assert '"share": 0.0714' in text
        assert "| world/badnet/none/asr | 96.7% |" in text
    assert "BACKDOORED" not in describe(clip_decomp.load("world/clean"))


def test_what_cannot_be_exported_is_refused(model, make, tmp_path):
    with pytest.raises(ModelError, match="tiny was not trained by this project"):
        export(model, tmp_path / "out")
    with pytest.raises(ModelError, match="There is no model"):
        export("world/missing", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="file is a file: name a folder"):
        export(make(), tmp_path / "file")
    with pytest.raises(ModelError, match=r"no place for visual\.attnpool\.probe"):
        rename({"visual.attnpool.probe": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"no place for transformer\.resblocks\.0\.ls_1\.gamma"):
        rename({"transformer.resblocks.0.ls_1.gamma": torch.zeros(1)})
