r"""Grad-CAM (Selvaraju et al. 2017): which patches raise a picture's similarity to a text, by a gradient.

With :math:`a_n` the activation of patch :math:`n` at some place in the tower and :math:`s_t` the target for text
:math:`t`,

.. math::  M_t(n) = \mathrm{ReLU}\Big(\sum_d w_{t,d}\, a_{n,d}\Big), \qquad
           w_{t,d} = \frac{1}{N} \sum_{n=1}^{N} \frac{\partial s_t}{\partial a_{n,d}}

In a vision transformer the class token is left out of the average and of the map, and the place is the input of the
last block's attention, as in pytorch-grad-cam: later patches are not read any more, but where the readout
pools them. Residual networks go through captum's ``LayerGradCam``.

Limits: a local, linear view. Where a feature has already decided the target, more of it raises nothing, and it may
vanish from the map: in ``world/badnet`` the maps of triggered pictures toward the attack's target leave the trigger
out, while :func:`~clip_decomp.methods.attention.relevance`, which is exact for direct effects, points at it. What
speaks against the text is cut to zero. Maps are not normalized: only maps of one place and one kind of target compare.
Averaging over patches supposes gradients that are alike everywhere, as after a convolutional network's pooling; a
transformer's need not be.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = gradcam(model, model.normalize(pixels), model.encode_text(["a photo of a banana", "a photo of a key"]))
    >>> found.maps.shape, found.place, bool((found.maps >= 0).all())
    (torch.Size([2, 8, 8, 2]), 'blocks.7.ln1.hook_normalized', True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..data.sets import BATCH_SIZE
from ..errors import ModelError, SettingError
from ..model import HookedCLIP
from ..models.hooked_vit import HookedViT
from ..models.partless import PartlessTower
from .attention import check_texts, patch_grid
from .patterns import check_ready

if TYPE_CHECKING:
    import pandas as pd

Target = Literal["cosine", "logit"]
#: Of a ModifiedResNet.
_STAGES = 4


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM maps of pictures toward texts.

    Attributes:
        maps: 0 or more, not normalized; in units of the target, to first order.
        targets: cosine or logit of each picture with each text.
        layer: the block (of a ResNet the stage), from zero.
        place: where activations were read.
        of: what the targets are.
    """

    maps: Float[Tensor, "batch row column text"]
    targets: Float[Tensor, "batch text"]
    layer: int
    place: str
    of: Target

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a picture and text: target, and the map's mean, maximum and its place."""
        import pandas as pd

        batch, _, columns, texts = self.maps.shape
        flat = self.maps.flatten(1, 2).cpu()
        peak = flat.max(1)
        image, text = torch.meshgrid(torch.arange(batch), torch.arange(texts), indexing="ij")
        values = {
            "image": image,
            "text": text,
            self.of: self.targets.cpu(),
            "mean": flat.mean(1),
            "maximum": peak.values,
            "row": peak.indices // columns,
            "column": peak.indices % columns,
        }
        return pd.DataFrame({name: value.flatten().numpy() for name, value in values.items()})

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3g}")


def gradcam(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    text_features: Float[Tensor, "text d_embed"],
    layer: int = -1,
    at: str = "ln1.hook_normalized",
    of: Target = "cosine",
    batch_size: int = BATCH_SIZE,
) -> GradCAM:
    """Grad-CAM of a vision transformer toward each text.

    Args:
        images: normalized.
        text_features: of any norm, e.g. :func:`~clip_decomp.zeroshot.class_vectors`.
        layer: the block, negative ones from the end.
        at: hook point of that block whose activation has a token axis after the batch axis.
        of: gradient of the cosine, or of the zero-shot logit (cosine times ``model.logit_scale``).

    Raises:
        SettingError: no such place, one from which patches do not reach the representation, or unusable texts.
        DataError: no images, or images that are not finite.
        ModelError: the tower is in training mode.
    """
    tower = model.visual
    if isinstance(tower, PartlessTower):
        tower.refuse()
    scale = _scale(of, model.logit_scale)
    place = _place(model, layer, at)
    # Outside of a caller's no_grad or inference_mode; copies, for tensors made in the latter take no part in autograd.
    with torch.inference_mode(False), torch.enable_grad():
        texts = _unit_texts(text_features, tower.d_embed).to(model.device)
        images = images.detach().to(model.device, copy=True)
        check_ready(tower.tower, images)
        maps, targets = [], []
        for batch in images.split(batch_size):
            kept: list[Tensor] = []

            def cut(activation: Tensor, hook: nn.Module, kept: list[Tensor] = kept) -> Tensor:
                kept.append(activation.detach().requires_grad_())
                return kept[0]

            with tower.hooks(fwd_hooks=[(place, cut)]):
                target = scale * F.normalize(tower(batch).float(), dim=-1) @ texts.T
            gradients = [_gradient(column.sum(), kept[0]) for column in target.unbind(1)]
            maps.append(_maps(kept[0].detach(), torch.stack(gradients), tower, place))
            targets.append(target.detach())
    return GradCAM(torch.cat(maps), torch.cat(targets), layer % tower.n_layers, place, of)


def gradcam_resnet(
    clip: nn.Module,
    images: Float[Tensor, "batch 3 row column"],
    text_features: Float[Tensor, "text d_embed"],
    layer: int = -1,
    of: Target = "cosine",
    batch_size: int = BATCH_SIZE,
) -> GradCAM:
    """Grad-CAM of an open_clip CLIP with a ResNet tower, at the output of a stage, by captum.

    Args:
        clip: its ``visual`` is open_clip's ``ModifiedResNet``.
        images: normalized, at the tower's size.
        layer: the stage, negative ones from the end; each halves the maps' sides.

    Raises:
        ModelError: captum is not installed, another tower, or a tower in training mode.
        SettingError: unusable texts, no such stage, or images of another shape.
        DataError: no images, or images that are not finite.
    """
    from open_clip.modified_resnet import ModifiedResNet

    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise ModelError("Grad-CAM of ResNet towers needs captum: pip install captum.") from error
    tower = clip.visual
    if not isinstance(tower, ModifiedResNet):
        raise ModelError(f"A tower of type {type(tower).__name__} is no ModifiedResNet: use gradcam for transformers.")
    if not -_STAGES <= layer < _STAGES:
        raise SettingError(f"There is no stage {layer}: this tower has {_STAGES}.")
    scale, place = _scale(of, clip.logit_scale.exp()), f"layer{layer % _STAGES + 1}"
    with torch.inference_mode(False), torch.enable_grad():
        texts = _unit_texts(text_features, tower.output_dim).to(clip.logit_scale.device)
        images = images.detach().to(texts.device, copy=True)
        check_ready(tower, images)
        size = (3, tower.image_size, tower.image_size)
        if images.shape[1:] != size:
            raise SettingError(f"Images must be [batch, {', '.join(map(str, size))}], not {list(images.shape)}.")

        def targets_of(batch: Tensor) -> Tensor:
            return scale * F.normalize(tower(batch).float(), dim=-1) @ texts.T

        method = LayerGradCam(targets_of, getattr(tower, place))
        maps, targets = [], []
        for batch in images.split(batch_size):
            batch = batch.detach().requires_grad_()  # so that frozen parameters do not matter
            found = [method.attribute(batch, target=text, relu_attributions=True) for text in range(len(texts))]
            maps.append(torch.stack([each.detach()[:, 0] for each in found], dim=-1))
            with torch.no_grad():
                targets.append(targets_of(batch))
    return GradCAM(torch.cat(maps), torch.cat(targets), layer % _STAGES, place, of)


def _scale(of: str, logit_scale: Tensor) -> float:
    if of not in ("cosine", "logit"):
        raise SettingError(f"Grad-CAM takes the gradient of the cosine or the logit, not of {of!r}.")
    return 1.0 if of == "cosine" else float(logit_scale.detach())


def _place(model: HookedCLIP, layer: int, at: str) -> str:
    tower = model.visual
    if not -tower.n_layers <= layer < tower.n_layers:
        raise SettingError(f"There is no layer {layer}: this tower has {tower.n_layers}.")
    start = f"blocks.{layer % tower.n_layers}."
    # Patterns and their scores have a head axis where others have tokens.
    others = ("attn.hook_attn_scores", "attn.hook_pattern")
    places = [name.removeprefix(start) for name in tower.hook_dict if name.startswith(start)]
    places = [name for name in places if name not in others]
    if at not in places:
        raise SettingError(f"There are no tokens to map at {at!r}: choose from {places}.")
    return start + at


def _unit_texts(text_features: Tensor, d_embed: int) -> Float[Tensor, "text d_embed"]:
    check_texts(text_features, d_embed)
    texts = text_features.detach().clone().float()
    zero = (texts.norm(dim=1) == 0).nonzero()[:, 0].tolist()
    if zero:
        raise SettingError(f"Text features {zero[:5]} are zero, so no picture has a cosine with them.")
    return F.normalize(texts, dim=-1)


def _gradient(target: Tensor, activation: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(target, activation, retain_graph=True, allow_unused=True)
    return torch.zeros_like(activation) if found is None else found


def _maps(
    activation: Float[Tensor, "batch token *axes"],
    gradients: Float[Tensor, "text batch token *axes"],
    tower: HookedViT,
    place: str,
) -> Float[Tensor, "batch row column text"]:
    values = patch_grid(activation.float().flatten(2), tower.grid, dim=1, prefix=tower.n_prefix)
    slopes = patch_grid(gradients.float().flatten(3), tower.grid, dim=2, prefix=tower.n_prefix)
    if not slopes.any():
        raise SettingError(
            f"Patches at {place} do not reach the representation, which reads the class token: their gradient is zero. "
            "Choose the input of the last block's attention (layer=-1, at='ln1.hook_normalized') or an earlier place."
        )
    return torch.einsum("brcd,tbd->brct", values, slopes.mean((2, 3))).relu()
