"""A CLIP of this project as Hugging Face's ``CLIPModel`` and ``CLIPProcessor``.

The weights are the same numbers under other names: attention's stacked query, key and value are split, the projections
to the joint space are transposed. The tokenizer gains the start and end tokens that :mod:`clip_decomp.tokenizer` adds
by itself, under the names that CLIP gave them; ``padding="max_length", truncation=True`` gives the same ids.

Limits: vision transformers only, ``CLIPModel`` has no ResNet. A text that spells ``<|startoftext|>`` or
``<|endoftext|>`` out becomes that token here, as with every Hugging Face tokenizer. Pictures
are preprocessed as by :meth:`~clip_decomp.model.HookedCLIP.preprocess` but for 8-bit rounding (torchvision resizes
them, unless ``backend="pil"`` is asked for), and but for one pixel where the crop cannot be in the middle.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> to_transformers(model).config.vision_config.num_hidden_layers
    8
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from open_clip.transformer import QuickGELU
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from ..errors import ModelError
from ..model import HookedCLIP
from ..models.hooked_resnet import HookedResNet
from ..tokenizer import BPETokenizer
from ..training.architecture import Architecture

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

START, END = "<|startoftext|>", "<|endoftext|>"

# open_clip's names and transformers', in front of ``.weight`` and ``.bias``.
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
_SINGLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}


def to_transformers(model: HookedCLIP) -> CLIPModel:
    """A ``CLIPModel`` in evaluation mode with a copy of the weights.

    Raises:
        ModelError: the image tower is a ResNet, or the card does not say how the model is built.
    """
    from transformers import CLIPModel

    if isinstance(model.visual, HookedResNet):
        raise ModelError(f"{model.name} has a ResNet tower, and Hugging Face's CLIPModel has none: use open_clip.")
    found = CLIPModel(_config(model))
    found.load_state_dict(rename(model.clip.state_dict()))
    return found.eval()


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip state dict under the names of ``CLIPModel``."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _SINGLE:
            renamed[_SINGLE[key]] = value
        elif key in _TRANSPOSED:
            renamed[_TRANSPOSED[key]] = value.T.contiguous()
        elif key.rpartition(".")[0] in _NORMS:
            stem, _, kind = key.rpartition(".")
            renamed[f"{_NORMS[stem]}.{kind}"] = value
        else:
            renamed.update(_block(key, value))
    return renamed


def _block(key: str, value: Tensor) -> dict[str, Tensor]:
    for theirs, ours in _TOWERS.items():
        if not key.startswith(theirs):
            continue
        layer, _, rest = key.removeprefix(theirs).partition(".")
        start = f"{ours}{layer}."
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            parts = zip("qkv", value.chunk(3), strict=True)
            return {f"{start}self_attn.{name}_proj.{kind}": part.clone() for name, part in parts}
        stem, _, kind = rest.rpartition(".")
        if stem in _BLOCK:
            return {f"{start}{_BLOCK[stem]}.{kind}": value}
    raise ModelError(f"Hugging Face's CLIPModel has no place for {key}.")


def tokenizer_for_transformers(tokenizer: BPETokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with start and end tokens, its length limit and its padding."""
    from transformers import PreTrainedTokenizerFast

    full = Tokenizer.from_str(tokenizer.to_json())
    padding = full.id_to_token(0)
    full.add_special_tokens([START, END])
    assert (full.token_to_id(START), full.token_to_id(END)) == (tokenizer.start, tokenizer.end)
    full.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, tokenizer.start), (END, tokenizer.end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        add_prefix_space=True,  # releases before the fifth overwrite the tokenizer's own setting
        bos_token=START,
        eos_token=END,
        pad_token=padding,
        model_max_length=tokenizer.context_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def image_processor(model: HookedCLIP) -> CLIPImageProcessor:
    """Resizing, cropping and normalization as the model's own preprocessing."""
    from transformers import CLIPImageProcessor

    size = model.visual.image_size
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(model.mean),
        image_std=list(model.std),
    )


def _config(model: HookedCLIP) -> CLIPConfig:
    from transformers import CLIPConfig

    if "architecture" not in model.card or not isinstance(model.tokenizer, BPETokenizer):
        raise ModelError(f"{model.name} was not trained by this project: its card has no architecture or tokenizer.")
    a, tokenizer = Architecture(**model.card["architecture"]), model.tokenizer
    text = {
        "vocab_size": a.vocab_size,
        "hidden_size": a.text_width,
        "intermediate_size": 4 * a.text_width,
        "num_hidden_layers": a.text_layers,
        "num_attention_heads": a.text_heads,
        "max_position_embeddings": a.context_length,
        "bos_token_id": tokenizer.start,
        # Pooling is at the first token with this id; 2 would mean the highest id instead, but bytes come first.
        "eos_token_id": tokenizer.end,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": a.width,
        "intermediate_size": 4 * a.width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "image_size": a.image_size,
        "patch_size": a.patch_size,
    }
    activation = {"hidden_act": _activation(model.clip), "projection_dim": a.embed_dim}
    return CLIPConfig(
        text_config={**text, **activation},
        vision_config={**vision, **activation},
        projection_dim=a.embed_dim,
        logit_scale_init_value=model.clip.logit_scale.item(),
    )


def _activation(clip: nn.Module) -> str:
    quick = any(isinstance(module, QuickGELU) for module in clip.modules())
    return "quick_gelu" if quick else "gelu"
