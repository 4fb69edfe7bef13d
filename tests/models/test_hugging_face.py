"""Models of transformers: the same features, streams and sums over their own modules, and folders that are safe."""

import copy
import json

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import clip_decomp
from clip_decomp.errors import ModelError
from clip_decomp.models.hugging_face import TransformersCLIP
from clip_decomp.models.loading import load
from clip_decomp.zoo.exporting import export

WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = {**WIDTH, "vocab_size": 50, "max_position_embeddings": 12}
VISION = {**WIDTH, "image_size": 32, "patch_size": 8}
MEAN_STD = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def clip(**more):
    config = transformers.CLIPConfig(
        text_config={**TEXT, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 0, **more},
        vision_config={**VISION, **more},
        projection_dim=20,
    )
    return transformers.CLIPModel(config)


def old_clip():
    return clip(eos_token_id=2)


def quick_clip():
    return clip(hidden_act="quick_gelu")


def siglip(**more):
    text = {**TEXT, "projection_size": 32, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 1}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config={**VISION, **more}))


def siglip2():
    text = {**TEXT, "projection_size": 32, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 1}
    vision = {**WIDTH, "patch_size": 8, "num_patches": 16}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def vision_only():
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION, projection_dim=20))


KINDS = [clip, old_clip, quick_clip, siglip, siglip2, vision_only]


@pytest.fixture
def make():
    """Random weights, with norms and biases that are not trivial."""

    def build(kind):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    noise = torch.randn_like(parameter)
                    if name.endswith("bias") or "norm" in name:
                        parameter.add_(0.3 * noise)
                    elif "embedding" in name or "probe" in name:
                        parameter.copy_(noise)
                    elif parameter.ndim > 1:
                        parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
        return model.eval()

    return build


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def theirs(request, make):
    return make(request.param)


@pytest.fixture
def tokens():
    found = torch.randint(3, 48, (4, 12), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate((5, 11, 2, 8)):
        found[row, end] = 49
        found[row, end + 1 :] = 0
    return found


def pooled(found):
    """transformers 5 returns an object where 4 returned the features."""
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def image_features(model, images):
    if isinstance(model, transformers.CLIPVisionModelWithProjection):
        return model(pixel_values=images).image_embeds
    if isinstance(model, transformers.Siglip2Model):
        processor = transformers.Siglip2ImageProcessor(
            do_resize=False, do_rescale=False, do_normalize=False, patch_size=8, max_num_patches=16
        )
        return pooled(model.get_image_features(**processor(list(images), return_tensors="pt")))
    return pooled(model.get_image_features(pixel_values=images))


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@torch.no_grad()
def test_features_are_theirs(theirs, images, tokens):
    model = load(theirs)
    expected = image_features(theirs, images)
    assert error(model.encode_image(images), expected) < 1e-5
    assert error(model.clip.encode_image(images), expected) < 1e-5
    assert model.visual.d_embed == expected.shape[1]
    if isinstance(theirs, transformers.CLIPVisionModelWithProjection):
        with pytest.raises(ModelError, match="CLIPVisionModelWithProjection has no text tower"):
            model.encode_text(tokens)
        with pytest.raises(ModelError, match="no text tower: load the whole model"):
            model.encode_text(["a fig"])
        return
    assert error(model.encode_text(tokens), pooled(theirs.get_text_features(input_ids=tokens))) < 1e-5
    assert torch.equal(model.logit_scale, theirs.logit_scale.exp())
    bias = getattr(theirs, "logit_bias", None)
    assert model.clip.logit_bias is bias


@torch.no_grad()
def test_contributions_add_up(theirs, images):
    model = load(theirs)
    expected = image_features(theirs, images)
    dec = model.decompose(images, tokens=True)
    assert error(dec.sum(), expected) < 1e-5
    assert error(dec.heads.sum(2), dec.attentions) < 1e-5
    assert error(dec.tokens(1, 2).sum(1), dec.heads[:, 1, 2]) < 1e-5
    assert dec.heads.shape == (3, 3, 4, expected.shape[1])
    if isinstance(theirs, (transformers.SiglipModel, transformers.Siglip2Model)):
        assert dec.attention.shape == (3, 3, 4, 4, 16)
        assert error(dec.pool_heads.sum(1), dec.sum() - dec.bias - dec.pool_mlp) < 1e-5
    else:
        assert dec.attention.shape == (3, 3, 4, 17)


@torch.no_grad()
def test_the_stream_is_theirs_after_every_layer(theirs, images):
    model, streams = load(theirs), []
    layers = theirs.vision_model.encoder.layers
    handles = [
        layer.register_forward_hook(lambda m, a, out: streams.append(out[0] if isinstance(out, tuple) else out))
        for layer in layers
    ]
    image_features(theirs, images)
    for handle in handles:
        handle.remove()
    _, cache = model.visual.run_with_cache(images)
    assert len(streams) == 3
    for layer, stream in enumerate(streams):
        assert error(cache[f"blocks.{layer}.hook_resid_post"], stream) < 1e-5
    pattern = cache["blocks.1.attn.hook_pattern"]
    assert error(pattern.sum(-1), torch.ones(pattern.shape[:-1])) < 1e-6


def test_the_weights_are_theirs(theirs, images):
    model, before = load(theirs), {id(each) for each in theirs.parameters()}
    assert {id(each) for each in model.clip.parameters()} == before
    model.encode_image(images).sum().backward()
    assert theirs.vision_model.encoder.layers[0].self_attn.v_proj.weight.grad is not None
    first = model.encode_image(images).detach()
    with torch.no_grad():
        theirs.vision_model.encoder.layers[0].mlp.fc2.weight.mul_(2)
    assert error(model.encode_image(images), first) > 1e-3
    apart = load(copy.deepcopy(theirs).eval())
    assert not {id(each) for each in apart.clip.parameters()} & before


def test_a_live_model_in_training_mode_or_of_another_kind_is_refused(make):
    model = make(clip)
    model.vision_model.encoder.layers[1].train()
    with pytest.raises(ModelError, match=r"training mode \(vision_model\.encoder\.layers\.1\)"):
        load(model)
    with pytest.raises(ModelError, match="BertModel of transformers is not supported: take one of CLIPModel, Siglip"):
        load(transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, hidden_size=12)).eval())
    with pytest.raises(ModelError, match="BertModel"):
        TransformersCLIP(transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, hidden_size=12)))
    with pytest.raises(ModelError, match="leave image_size= out"):
        load(make(clip), image_size=64)


def test_a_vision_model_without_its_head_is_not_decomposed(make, images):
    model = load(make(lambda: siglip(vision_use_head=False)))
    with pytest.raises(ModelError, match="no head"):
        model.decompose(images)


def test_a_live_model_that_does_not_say_its_normalization_warns(make, caplog):
    assert load(make(siglip)).mean == (0.5, 0.5, 0.5)
    assert "SiglipModel does not say how pixels are normalized; assuming mean=(0.5, 0.5, 0.5)" in caplog.text
    caplog.clear()
    assert load(make(clip), **MEAN_STD).mean == (0.5, 0.5, 0.5)
    assert "normalized" not in caplog.text


def test_tokenizers_are_given_found_or_asked_for(make):
    model = load(make(clip), tokenizer=lambda texts: torch.full((len(texts), 12), 49))
    assert model.encode_text(["a", "b"]).shape == (2, 20)
    with pytest.raises(ModelError, match="came without a tokenizer: pass tokenizer="):
        load(make(clip)).encode_text(["a fig"])
    full = load(make(lambda: clip(vocab_size=49408, max_position_embeddings=20)))
    assert full.tokenizer(["a fig"]).shape == (1, 20)


# Folders


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
