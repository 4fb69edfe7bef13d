"""Folders of transformers: loaded with their preprocessing, refused where they are not whole or not safe."""

import json

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import clip_decomp
from clip_decomp.errors import ModelError
from clip_decomp.models.loading import load
from clip_decomp.zoo.exporting import export

from . import hugging_face
from .hugging_face import MEAN_STD, clip, error, image_features, pooled, quick_clip, siglip

make, tokens = hugging_face.make, hugging_face.tokens  # fixtures


@pytest.fixture
def folder(make, tmp_path):
    """A folder as save_pretrained writes it, with an image processor."""

    def write(kind, processor=True, **options):
        make(kind).save_pretrained(tmp_path, **options)
        if processor:
            size = {"height": 32, "width": 32}
            if kind is siglip:
                made = transformers.SiglipImageProcessor(size=size)
            else:
                made = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
            made.save_pretrained(tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize("kind", [clip, quick_clip, siglip])
@torch.no_grad()
def test_a_folder_is_loaded_with_its_preprocessing(kind, folder, make, images, tokens):
    path = folder(kind)
    model, theirs = load(path), make(kind)
    assert model.name == path.name
    assert error(model.encode_image(images), image_features(theirs, images)) < 1e-6
    assert error(model.encode_text(tokens), pooled(theirs.get_text_features(input_ids=tokens))) < 1e-6
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    assert model.mean == tuple(processor.image_mean)
    picture = Image.effect_noise((71, 45), 90).convert("RGB")
    found, expected = model.preprocess(picture), processor(images=picture, return_tensors="pt")["pixel_values"][0]
    assert (found - expected).abs().max() <= 1.01 / 255 / min(model.std)


def test_a_folder_says_its_activation_and_normalization(folder):
    path = folder(quick_clip)
    with pytest.raises(ModelError, match=r"configuration of .* says QuickGELU, but quick_gelu=False says GELU"):
        load(path, quick_gelu=False)
    with pytest.raises(ModelError, match=r"the image processor of .* says mean=\(0\.48"):
        load(path, **MEAN_STD)
    assert load(path, quick_gelu=True).mean[0] == pytest.approx(0.48145466)


def test_a_folder_without_an_image_processor_needs_the_normalization(folder):
    path = folder(clip, processor=False)
    with pytest.raises(ModelError, match=r"no image processor that says .* pass mean= and std=, mean=\(0\.48.*siglip"):
        load(path)
    assert load(path, **MEAN_STD).std == (0.5, 0.5, 0.5)


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(folder):
    path = folder(clip)
    state = load_file(path / "model.safetensors")
    first = "text_model.final_layer_norm.bias"

    def refused(changed, message):
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load(path)

    refused(
        {key: value for key, value in state.items() if key != first}, rf"1 keys are missing \(e\.g\. \['{first}'\]\)"
    )
    refused({**state, "extra": torch.zeros(1)}, r"1 are unknown \(e\.g\. \['extra'\]\)")
    refused({**state, first: torch.full_like(state[first], float("nan"))}, f"{first} holds NaN")
    refused({**state, first: torch.zeros(7)}, f"{path.name}: ")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="not a readable folder of transformers"):
        load(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="not a readable folder of transformers"):
        load(path)


def test_pickled_weights_never_run_code(folder, tmp_path):
    path = folder(clip)
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    assert load(path).visual.n_layers == 3

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "it-ran"), "w")

    torch.save({**state, "logit_scale": Bomb()}, path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not a readable folder of transformers"):
        load(path)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("config", ['{"model_type": "bert"}', '{"model_type": "no-such-type"}'])
def test_folders_of_other_models_are_refused(config, tmp_path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"holds a model of type 'bert'|not a readable folder of transformers"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(ModelError, match=r"or transformers' config\.json"):
        load(tmp_path)


def test_repositories_are_fetched_or_the_message_says_what_to_do(folder, images, monkeypatch):
    path, asked = folder(clip), []
    for made in (transformers.AutoConfig, transformers.CLIPModel, transformers.AutoImageProcessor):
        own = made.from_pretrained

        def fetch(name, *args, _own=own, **options):
            asked.append((name, options.pop("local_files_only", False)))
            if not asked[-1][1] and name == "owner/name":
                return _own(path, *args, **options)
            raise OSError("We couldn't connect to 'https://huggingface.co'.\nMore.")

        monkeypatch.setattr(made, "from_pretrained", fetch)
    model = load("owner/name", **MEAN_STD)
    assert model.name == "owner/name"
    assert asked[:2] == [("owner/name", True), ("owner/name", False)]
    with pytest.raises(ModelError, match=r"'wrld/badnet' is no folder.*couldn't connect.*\['world/badnet'"):
        load("wrld/badnet")
    with pytest.raises(ModelError, match="There is no file or folder '/no/such/folder'"):
        load("/no/such/folder")


@pytest.mark.parametrize("name", ["world/clean", "world/badnet"])
@torch.no_grad()
def test_an_exported_model_comes_back_the_same(name, tmp_path):
    own = clip_decomp.load(name)
    back = load(export(own, tmp_path) / "hugging_face")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    texts = ["a photo of a banana", "", "a red key"]
    assert (back.mean, back.std) == (pytest.approx(own.mean), pytest.approx(own.std))
    assert error(back.encode_image(images), own.encode_image(images)) < 1e-5
    assert torch.equal(back.tokenizer(texts), own.tokenizer(texts))
    assert error(back.encode_text(texts), own.encode_text(texts)) < 1e-5
    ours, found = own.decompose(images), back.decompose(images)
    for part in ("heads", "mlps", "embedding", "bias", "attention"):
        assert error(getattr(found, part), getattr(ours, part)) < 2e-5
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    assert error(back.preprocess(picture), own.preprocess(picture)) < 1e-6
