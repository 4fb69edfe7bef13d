"""Models of transformers: the same features, streams and sums over their own modules."""

import copy

import pytest
import torch
import transformers

from clip_decomp.errors import ModelError
from clip_decomp.models.hugging_face import TransformersCLIP
from clip_decomp.models.loading import load

from . import hugging_face
from .hugging_face import (
    MEAN_STD,
    clip,
    error,
    image_features,
    old_clip,
    pooled,
    quick_clip,
    siglip,
    siglip2,
    vision_only,
)

make, tokens = hugging_face.make, hugging_face.tokens  # fixtures

KINDS = [clip, old_clip, quick_clip, siglip, siglip2, vision_only]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def theirs(request, make):
    return make(request.param)


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
