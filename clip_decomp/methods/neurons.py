r"""Single MLP neurons: what each writes into the representation.

A neuron's direct contribution is its activation at the class token (in towers that average patches, its mean over them)
times its row of the output matrix, read as everything else is: :math:`a_n\, W_{proj}[n] W_{read} / \sigma`. The neurons
of a layer add up to its MLP, whose output bias is in the decomposition's ``bias``. In a gated MLP a neuron is what
enters the output matrix.

Limits: exact convention only; the paper's spreads constants over whole MLPs and says nothing about neurons. Towers that
read through an attention pool, with a matrix for every pool head, are refused.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> images = torch.zeros(2, 3, 64, 64)
    >>> found = neurons(model, images, layer=5)
    >>> torch.allclose(found.sum(), model.decompose(images).mlps[:, 5], atol=1e-5)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..decompose import decompose, read_matrix
from ..decomposition import Decomposition
from ..errors import ModelError, SettingError
from ..model import HookedCLIP
from ..models.readers import FirstToken, wide
from ..models.recording import Record


@dataclass(frozen=True)
class Neurons:
    """Contributions of one layer's neurons, kept as factors.

    Attributes:
        activations: at the class token, after the nonlinearity, times the image's scale.
        writes: what each neuron writes at activation 1.
    """

    layer: int
    activations: Float[Tensor, "batch neuron"]
    writes: Float[Tensor, "neuron d_embed"]

    def contribution(self, neuron: int) -> Float[Tensor, "batch d_embed"]:
        """Direct contribution of one neuron.

        Raises:
            SettingError: there is no such neuron.
        """
        if not 0 <= neuron < len(self.writes):
            raise SettingError(f"There is no neuron L{self.layer}N{neuron}: this MLP has {len(self.writes)} of them.")
        return self.activations[:, neuron, None] * self.writes[neuron]

    def toward(self, text_features: Float[Tensor, "text d_embed"]) -> Float[Tensor, "batch neuron text"]:
        """Projection of every neuron's contribution on each text.

        Raises:
            SettingError: text features of another width.
        """
        if text_features.ndim != 2 or text_features.shape[1] != self.writes.shape[1]:
            expected = self.writes.shape[1]
            raise SettingError(f"Text features must be [text, {expected}], not {list(text_features.shape)}.")
        return self.activations[..., None] * (self.writes @ text_features.to(self.writes).T)

    def sum(self) -> Float[Tensor, "batch d_embed"]:
        """All neurons together: the MLP's contribution."""
        return self.activations @ self.writes

    def strongest(self, text_features: Float[Tensor, "text d_embed"], n: int = 10) -> list[tuple[str, float]]:
        """The ``n`` neurons that push most toward the mean of the texts, averaged over the images, and how much."""
        push = self.toward(text_features).mean((0, 2))
        best = push.topk(min(n, len(push)))
        names = (f"L{self.layer}N{index}" for index in best.indices.tolist())
        return list(zip(names, best.values.tolist(), strict=True))


@torch.no_grad()
def neurons(model: HookedCLIP, images: Float[Tensor, "batch 3 row column"], layer: int) -> Neurons:
    """Contributions of one layer's neurons.

    Args:
        images: normalized, as for ``encode_image``.

    Raises:
        SettingError: there is no such layer.
    """
    _, (found,) = decompose_neurons(model, images, [layer])
    return found


def decompose_neurons(
    model: HookedCLIP, images: Float[Tensor, "batch 3 row column"], layers: Sequence[int]
) -> tuple[Decomposition, list[Neurons]]:
    """A decomposition and the contributions of several layers' neurons from one forward pass.

    Raises:
        SettingError: there is no such layer.
        ModelError: the tower reads through an attention pool.
    """
    tower = model.visual
    for layer in layers:
        if not 0 <= layer < tower.n_layers:
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {tower.n_layers - 1}.")
    kept: dict[str, Tensor] = {}

    def keep(post: Float[Tensor, "batch token neuron"], hook) -> None:
        kept[hook.name] = wide(tower.readout.reader.take(post))

    record, names = Record(), [f"blocks.{layer}.mlp.hook_post" for layer in layers]
    read = read_matrix(tower) if layers else None  # refuses before the pass
    with tower.hooks(fwd_hooks=[(name, keep) for name in names]):
        dec = decompose(tower, images.to(model.device), record=record)
    if read is None:
        return dec, []
    found = []
    for layer, name in zip(layers, names, strict=True):
        activations = _pooled(kept[name], record, layer) * dec.scale[:, None]
        found.append(Neurons(layer, activations, tower.blocks[layer].w_neurons @ read))
    return dec, found


def _pooled(post: Tensor, record: Record, layer: int) -> Float[Tensor, "batch neuron"]:
    """Activations as the readout reads them, over the norm behind the MLP if there is one."""
    behind = record.mlp_norm[layer]
    if behind is not None and not isinstance(record.how, FirstToken):
        raise ModelError("Neurons before a norm behind their MLP can be read at a class token only.")
    if record.weights is not None:
        return torch.einsum("bt,btn->bn", record.weights[:, 0], post[:, : record.weights.shape[-1]])
    return post if behind is None else post * behind[:, None]
