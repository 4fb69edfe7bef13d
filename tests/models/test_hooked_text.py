"""Text towers: every kind among open_clip's names adds up, streams are the original's, hooks work and are obeyed."""

import json

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from transformers import BertConfig

from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_text import HookedText, UnhookedText, hook_text
from clip_decomp.models.loading import load

from .test_hugging_face import clip as hf_clip
from .test_hugging_face import old_clip, siglip, siglip2, vision_only

EOT = 90  # the highest id
#: What is the same tower in another size, or another tokenizer.
SIZES = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
SIZES |= {"hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"}
VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}


def kinds():
    """One name of every distinct text configuration, sizes aside."""
    found, names = {}, {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        text = {key: value for key, value in config["text_cfg"].items() if key not in SIZES}
        built = CoCa if "multimodal_cfg" in config else CustomTextCLIP if config.get("custom_text") else CLIP
        key = json.dumps([text, built.__name__, bool(config.get("quick_gelu"))], sort_keys=True)
        names.setdefault(key, []).append(name)
        if "hf_model_name" not in text:
            found[key] = (name, built, text, bool(config.get("quick_gelu")))
    return found, names


KINDS, NAMES = kinds()


def shrunk(built, text, quick):
    sizes = {"context_length": 10, "vocab_size": EOT + 1, "width": 24, "heads": 3, "layers": 2}
    more = {"multimodal_cfg": {**sizes, "dim_head": 8, "n_queries": 3}} if built is CoCa else {}
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True} if more else VISION
    return built(20, vision_cfg=vision, text_cfg={**text, **sizes}, quick_gelu=quick, **more)


@pytest.fixture
def tokens():
    """Texts of several lengths; the end is both the highest id and whatever a tower calls its end."""

    def make(eos=EOT):
        found = torch.randint(3, EOT, (4, 10), generator=torch.Generator().manual_seed(0))
        for row, end in enumerate((4, 7, 1, 6)):
            found[row, end], found[row, end + 1 :] = eos, 0
        return found

    return make


@pytest.fixture(params=KINDS.values(), ids=lambda kind: kind[0])
def original(request, randomize):
    """A tiny model of a kind, and texts for it."""
    _, built, text, quick = request.param
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = randomize(shrunk(built, text, quick))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "embed" in name or "cls_emb" in name or "projection" in name:
                    parameter.copy_(torch.randn_like(parameter) * (0.3 if "projection" in name else 1))
    return model


def ids_for(model, tokens):
    tower = getattr(model, "text", model)
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return tokens(getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if pool == "eos" else EOT)


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_every_name_has_a_kind_that_is_hooked_or_an_encoder_of_transformers():
    hooked = sum(len(names) for key, names in NAMES.items() if key in KINDS)
    others = [name for key, names in NAMES.items() if key not in KINDS for name in names]
    assert (hooked, len(others)) == (len(open_clip.list_models()) - 10, 10)
    assert all("hf_model_name" in open_clip.get_model_config(name)["text_cfg"] for name in others)


@torch.no_grad()
def test_contributions_of_texts_add_up(original, tokens):
    ids, model = ids_for(original, tokens), HookedCLIP(original, lambda texts: texts, (0.5,) * 3, (0.5,) * 3)
    expected = original.encode_text(ids, normalize=False)
    dec = model.decompose_text(ids, tokens=True)
    assert error(dec.sum(), expected) < 1e-5
    assert error(model.encode_text(ids), expected) < 1e-6
    assert error(dec.attentions, dec.heads.sum(2)) < 1e-5
    assert dec.heads.shape == (4, 2, 3, expected.shape[1])
    for layer, head in ((0, 1), (1, 2)):
        assert error(dec.tokens(layer, head).sum(1), dec.heads[:, layer, head]) < 1e-5
    assert error(dec.attention.sum(-1), torch.ones(4, 2, 3)) < 1e-5
    paper = model.decompose_text(ids, convention="paper")
    assert error(paper.sum(), torch.nn.functional.normalize(expected, dim=-1)) < 1e-5


@torch.no_grad()
def test_positions_behind_the_end_are_not_seen_where_the_tower_is_causal(original, tokens):
    ids, tower = ids_for(original, tokens), hook_text(original)
    _, cache = tower.run_with_cache(ids)
    pattern = cache["blocks.1.attn.hook_pattern"]
    assert error(pattern.sum(-1), torch.ones(pattern.shape[:-1])) < 1e-6
    causal = getattr(getattr(original, "text", original), "attn_mask", None) is not None
    assert (pattern.triu(1).abs().max() == 0) == causal
    if tower.parts.ends:
        assert pattern.shape[-1] == 8  # the longest text's end is position 7
    else:
        assert pattern.shape[-1] in {10, 11}


@torch.no_grad()
def test_the_stream_is_the_originals_after_every_layer(original, tokens):
    ids, streams = ids_for(original, tokens), []
    blocks = getattr(original, "text", original).transformer.resblocks
    handles = [block.register_forward_hook(lambda module, args, out: streams.append(out)) for block in blocks]
    original.encode_text(ids)
    for handle in handles:
        handle.remove()
    _, cache = hook_text(original).run_with_cache(ids)
    for layer, stream in enumerate(streams):
        found = cache[f"blocks.{layer}.hook_resid_post"]
        assert error(found, stream[:, : found.shape[1]]) < 1e-5


@torch.no_grad()
def test_patterns_and_fused_attention_give_the_same_decomposition(original, tokens):
    ids, tower = ids_for(original, tokens), hook_text(original)
    model = HookedCLIP(original, lambda texts: texts, (0.5,) * 3, (0.5,) * 3)
    plain = model.decompose_text(ids, tokens=True)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(2)]
    with model.text.hooks(fwd_hooks=[(name, lambda x, hook: x) for name in names]):
        hooked = model.decompose_text(ids, tokens=True)
        assert error(model.encode_text(ids), plain.sum()) < 1e-5
    assert error(hooked.attention, plain.attention) < 1e-5
    assert error(hooked.heads, plain.heads) < 1e-5
    assert tower.n_layers == 2


@pytest.mark.parametrize("kind", [hf_clip, old_clip, siglip, siglip2], ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_texts_of_transformers_add_up(kind, randomize):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = kind().eval()
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * (1 if "embedding" in name else 0.3))
    ids = torch.randint(3, 48, (3, 12), generator=torch.Generator().manual_seed(0))
    for row, end in enumerate((5, 9, 2)):
        ids[row, end], ids[row, end + 1 :] = 49, 0
    model = load(theirs)
    expected = model.clip.encode_text(ids)
    dec = model.decompose_text(ids, tokens=True)
    assert error(dec.sum(), expected) < 1e-5
    assert error(dec.tokens(1, 1).sum(1), dec.heads[:, 1, 1]) < 1e-5
    _, cache = model.text.run_with_cache(ids)
    layers, streams = theirs.text_model.encoder.layers, []
    handles = [
        layer.register_forward_hook(lambda m, a, out: streams.append(out[0] if isinstance(out, tuple) else out))
        for layer in layers
    ]
    model.encode_text(ids)
    for handle in handles:
        handle.remove()
    for layer, stream in enumerate(streams):
        found = cache[f"blocks.{layer}.hook_resid_post"]
        assert error(found, stream[:, : found.shape[1]]) < 1e-5
    assert cache["blocks.0.attn.hook_pattern"].shape[-1] == (10 if kind in (hf_clip, old_clip) else 12)
    seen = []
    model.text.run_with_hooks(ids, fwd_hooks=[("hook_embed", lambda x, hook: seen.append(x.shape[1]))])
    assert seen == [cache["hook_embed"].shape[1]]


@torch.no_grad()
def test_hooks_are_obeyed_by_encode_text_and_leave_nothing(model, unchanged):
    texts = ["a photo of a fig.", "a pear"]
    before, same = model.encode_text(texts), unchanged(model.clip)
    with model.text.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):
        without = model.encode_text(texts)
    assert error(without, before) > 1e-3
    with model.text.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x * 2)]):
        assert error(model.encode_text(texts), before) > 1e-3
    assert torch.equal(model.encode_text(texts), before)
    unit = model.encode_text(texts, normalize=True)
    assert error(unit.norm(dim=-1), torch.ones(2)) < 1e-6
    assert same()


@torch.no_grad()
def test_what_is_left_out_of_the_sum_is_left_out_of_the_text(model):
    """A head whose z is zero contributes nothing: the sum is that of the edited tower."""
    texts = ["a photo of a fig.", "a pear"]
    with model.text.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):
        dec = model.decompose_text(texts)
        assert error(dec.sum(), model.encode_text(texts)) < 1e-5
    assert torch.count_nonzero(dec.heads[:, 0]) == 0


@torch.no_grad()
def test_weights_that_change_change_the_decomposition(model):
    ids = model.tokenizer(["a fig"])
    model.decompose_text(ids)
    model.clip.transformer.resblocks[0].attn.out_proj.weight.mul_(2)
    model.clip.text_projection.mul_(0.5)
    assert error(model.decompose_text(ids).sum(), model.encode_text(ids)) < 1e-5
    model.clip.text_projection = torch.nn.Parameter(torch.randn(16, 24))
    assert error(model.decompose_text(ids).sum(), model.encode_text(ids)) < 1e-5


def test_a_text_tower_in_training_mode_is_refused(model):
    model.clip.transformer.resblocks[0].train()
    with pytest.raises(ModelError, match=r"text tower .* is in training mode"):
        model.decompose_text(["a fig"])


@torch.no_grad()
def test_halves_are_decomposed_in_full_precision(make_clip, tokenizer):
    clip = make_clip().to(torch.bfloat16)
    model = HookedCLIP(clip, tokenizer, (0.5,) * 3, (0.5,) * 3)
    dec = model.decompose_text(["a fig", "a photo of a pear"])
    assert dec.heads.dtype == torch.float32
    assert error(dec.sum(), model.encode_text(["a fig", "a photo of a pear"]).float()) < 0.03


@pytest.fixture
def bert(make_clip):
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 8}
    clip = CustomTextCLIP(24, vision, {"context_length": 8, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1})
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    clip.text = HFTextEncoder("", 24, config=config, pooler_type="mean_pooler", proj_type="linear", pretrained=False)
    return clip.eval()


def test_encoders_of_another_kind_are_hooked_at_their_embedding_and_say_so(bert):
    model = HookedCLIP(bert, lambda texts: torch.ones(len(texts), 5, dtype=torch.long), (0.5,) * 3, (0.5,) * 3)
    assert isinstance(model.text, UnhookedText)
    assert model.encode_text(["x"]).shape == (1, 24)
    before = model.encode_text(["x"])
    with model.text.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x * 2)]):
        assert error(model.encode_text(["x"]), before) > 1e-3
    with pytest.raises(ModelError, match=r"HFTextEncoder around BertModel has no decomposition here; .*prompt tuning"):
        model.decompose_text(["x"])
    for name in ("n_layers", "n_heads", "blocks"):
        with pytest.raises(ModelError, match="BertModel"):
            getattr(model.text, name)


def test_models_without_texts_say_so():
    with pytest.raises(ModelError, match="has no text tower here"):
        load(vision_only().eval()).decompose_text(torch.ones(1, 3, dtype=torch.long))


def test_the_shipped_models_texts_are_read():
    model = load("world/clean")
    assert isinstance(model.text, HookedText)
    dec = model.decompose_text(["a photo of a banana", "a red key"], tokens=True)
    assert error(dec.sum(), model.encode_text(["a photo of a banana", "a red key"])) < 1e-5
    assert dec.attention.shape[:3] == (2, 2, 4)
