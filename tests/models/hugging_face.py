"""Tiny models of transformers, and what transformers makes of pictures."""

import pytest
import torch
import transformers

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
