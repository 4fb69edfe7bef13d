r"""Perturbation resistivity (PR): how much of a feature survives a perturbation of the picture, layer by layer.

Zhang et al., *Defending Multimodal Backdoored Models by Repulsive Visual Prompt Tuning* (RVPT), equation 1, averaged
over pictures x under a perturbation delta:

    PR(x, delta) = cos(f(x), f(x + delta))

1 is a feature that the perturbation does not reach. The paper's claim (figure 1) is that a trigger, unlike benign
perturbations, turns the features of the deeper layers away. "PR curve" always means this here, never precision-recall.

Where the text is silent, here: f is the residual stream after each block, of the class token (the feature that RVPT
repels, its equation 3) and of the patches averaged before the cosine is taken; layer -1 is the input of block 0, where
the class token has not seen the picture yet and always has PR 1; the representation is f after the last norm and the
projection. Prompts hung on the tower take part in the forward pass and not in the averages over patches.

Limits: a cosine sees every direction of the residual stream, those that the output never reads included, and layers
whose features share a large constant part have a high PR whatever the perturbation does: compare perturbations at one
layer rather than layers under one perturbation.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> from clip_decomp.methods.perturbations import HorizontalFlip
    >>> model = clip_decomp.load("world/clean")
    >>> flipped = resistivity(model, open_data("world", 64, test=8).test, HorizontalFlip())
    >>> flipped.layers
    (-1, 0, 1, 2, 3, 4, 5, 6, 7)
    >>> flipped.class_token[0]
    1.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from ..contributions import pictures
from ..data.sets import BATCH_SIZE, ImageSet
from ..errors import DataError, ModelError, SettingError
from ..model import HookedCLIP
from .perturbations import Perturbation

#: The layer number of what enters block 0.
EMBEDDING = -1
_REPRESENTATION = "representation"


@dataclass(frozen=True)
class Resistivity:
    """Mean cosines with and without a perturbation; entry k of each tuple belongs to layer ``layers[k]``.

    Attributes:
        perturbation: its name.
        layers: -1 is the input of block 0, any other the residual stream after that block.
        class_token, patches: mean over pictures, for the class token and for the averaged patches, in -1..1.
        class_token_std, patches_std: standard deviation over pictures.
        representation, representation_std: the same for the final representation.
        count: pictures.
    """

    perturbation: str
    layers: tuple[int, ...]
    class_token: tuple[float, ...]
    class_token_std: tuple[float, ...]
    patches: tuple[float, ...]
    patches_std: tuple[float, ...]
    representation: float
    representation_std: float
    count: int

    def to_frame(self):
        """A pandas ``DataFrame``, a row for each token and layer and one for the representation, which has no layer."""
        import pandas as pd

        rows = [
            (self.perturbation, token, *row)
            for token, *columns in (
                ("class", self.layers, self.class_token, self.class_token_std),
                ("patches", self.layers, self.patches, self.patches_std),
                (_REPRESENTATION, (pd.NA,), (self.representation,), (self.representation_std,)),
            )
            for row in zip(*columns, strict=True)
        ]
        frame = pd.DataFrame(rows, columns=["perturbation", "token", "layer", "pr", "std"])
        return frame.astype({"layer": "Int64"})

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``: ``<prefix>/pr;perturbation=badnet;token=class;layer=3``.

        The spread over pictures is called ``pr-std``; the representation's have no layer.
        """
        found = {}
        for _, token, layer, mean, std in self.to_frame().itertuples(index=False, name=None):
            place = "" if token == _REPRESENTATION else f";layer={layer}"
            key = f"perturbation={self.perturbation};token={token}{place}"
            found |= {f"{prefix}/pr;{key}": mean, f"{prefix}/pr-std;{key}": std}
        return found

    def _repr_html_(self) -> str:
        import pandas as pd

        columns = {
            "layer": self.layers,
            "class token": self.class_token,
            "class token std": self.class_token_std,
            "patches": self.patches,
            "patches std": self.patches_std,
        }
        table = pd.DataFrame(columns).to_html(index=False, float_format=lambda x: f"{x:.4f}")
        return (
            f"<p>Cosine with and without {escape(self.perturbation)}, {self.count} pictures; representation: "
            f"{self.representation:.4f} (std {self.representation_std:.4f})</p>{table}"
        )


@torch.no_grad()
def resistivity(
    model: HookedCLIP,
    data: ImageSet,
    perturbation: Perturbation,
    layers: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
    name: str | None = None,
) -> Resistivity:
    """Perturbation resistivity at every layer, in one pass over the data; only running sums are kept.

    Args:
        perturbation: any callable (pictures in 0..1, their numbers in the data) -> pictures: one of
            :mod:`clip_decomp.methods.perturbations`, a trigger, a function.
        layers: -1 for the input of block 0, l for the residual stream after block l; all by default.
        progress: the label of a progress bar; none without it.
        name: what results call the perturbation; its own ``name``, or the function's, by default.

    Raises:
        SettingError: a layer out of range or given twice, or a perturbation that changes the pictures' shape.
        DataError: no picture can be read, or a feature is zero or not finite: the message names picture and layer.
        ModelError: the image tower is in training mode.
    """
    _check_mode(model)
    chosen = _layers(layers, model.visual.n_layers)
    name = name or _name_of(perturbation)
    total = squares = torch.zeros(2 * len(chosen) + 1, dtype=torch.float64)
    count = 0
    for pixels, _, numbers in pictures(data, None, batch_size, progress):
        # A copy, so that a perturbation that works in place does not perturb the clean picture, too.
        changed = perturbation(pixels.clone(), numbers)
        if changed.shape != pixels.shape:
            raise SettingError(
                f"{name} must return pictures of the shape that it is given, {list(pixels.shape)}, not "
                f"{list(changed.shape)}."
            )
        sides = (_directions(model, side, chosen, numbers, what) for side, what in ((pixels, "clean"), (changed, name)))
        distances = torch.stack([_distance(*pair) for pair in zip(*sides, strict=True)])
        total = total + distances.sum(1)
        squares = squares + distances.square().sum(1)
        count += len(pixels)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt().tolist()
    cosine = (1 - mean).tolist()
    end = len(chosen)
    return Resistivity(
        perturbation=name,
        layers=chosen,
        class_token=tuple(cosine[:end]),
        class_token_std=tuple(std[:end]),
        patches=tuple(cosine[end : 2 * end]),
        patches_std=tuple(std[end : 2 * end]),
        representation=cosine[-1],
        representation_std=std[-1],
        count=count,
    )


def _distance(a: Float[Tensor, "batch width"], b: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
    """1 - cosine of unit vectors, in a form that keeps its digits near 0."""
    return (a - b).square().sum(-1) / 2


def _directions(
    model: HookedCLIP,
    pixels: Float[Tensor, "batch 3 row column"],
    layers: tuple[int, ...],
    numbers: Int[Tensor, " batch"],
    what: str,
) -> Iterator[Float[Tensor, "batch width"]]:
    """Unit features: class tokens of all layers, averaged patches of all layers, representation."""
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    rows, columns = model.visual.grid
    prefix = model.visual.n_prefix
    if not prefix:
        raise ModelError(
            f"The tower of {model.name} has no class token, whose resistivity beside the patches' is compared: take a "
            "model that has one."
        )
    places = slice(prefix, prefix + rows * columns)
    hooks: list[tuple[str, Callable]] = [
        (_hook_name(layer), partial(_keep, kept=kept, layer=layer, places=places)) for layer in layers
    ]
    images = model.normalize(pixels).to(model.device)
    representation = model.visual.run_with_hooks(images, fwd_hooks=hooks)
    for place, token in enumerate(("class token", "averaged patches")):
        for layer in layers:
            yield _unit(kept[layer][place], f"{token} at layer {layer}", numbers, what)
    yield _unit(representation, _REPRESENTATION, numbers, what)


def _hook_name(layer: int) -> str:
    return "blocks.0.hook_resid_pre" if layer == EMBEDDING else f"blocks.{layer}.hook_resid_post"


def _keep(
    stream: Float[Tensor, "batch token d_model"],
    hook: HookPoint,
    kept: dict[int, tuple[Tensor, Tensor]],
    layer: int,
    places: slice,
) -> None:
    """Keep class token and averaged patches of a residual stream, which itself is left as it is and forgotten."""
    kept[layer] = stream[:, 0], stream[:, places].mean(1, dtype=torch.float64)


def _unit(
    features: Float[Tensor, "batch width"], place: str, numbers: Int[Tensor, " batch"], what: str
) -> Float[Tensor, "batch width"]:
    features = features.cpu().double()
    norms = features.norm(dim=-1, keepdim=True)
    bad = ~(norms.isfinite() & (norms > 0)).squeeze(-1)
    if bad.any():
        first = numbers[bad][0].item()
        raise DataError(
            f"The {place} of picture {first} ({what}) is zero or not finite, so it has no direction "
            f"({int(bad.sum())} of {len(bad)} pictures of its batch): look at the picture and at the perturbation."
        )
    return features / norms


def _layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    chosen = tuple(range(EMBEDDING, n_layers)) if layers is None else tuple(layers)
    if not chosen:
        raise SettingError("There is no layer to compare features at: leave layers out for all of them.")
    for layer in chosen:
        if not EMBEDDING <= layer < n_layers:
            raise SettingError(f"Layer {layer} is out of range: -1 (the embedding) to {n_layers - 1} can be compared.")
    if len(set(chosen)) < len(chosen):
        raise SettingError(f"Every layer can be given once, not {list(chosen)}.")
    return chosen


@runtime_checkable
class _Named(Protocol):
    @property
    def name(self) -> str: ...


def _name_of(perturbation: Perturbation) -> str:
    if isinstance(perturbation, _Named):
        return perturbation.name
    return getattr(perturbation, "__name__", type(perturbation).__name__)


def _check_mode(model: HookedCLIP) -> None:
    for module_name, module in model.visual.tower.named_modules():
        if module.training:
            place = f"image tower{'.' + module_name if module_name else ''}"
            raise ModelError(f"The {place} is in training mode: call .eval() first.")
