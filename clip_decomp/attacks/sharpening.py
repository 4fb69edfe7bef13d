"""Filters that see fine structure: where a model is made to look before it is fine-tuned.

A vision transformer's first layer sees mostly what pictures mostly hold, low frequencies. A trigger that lives in high
ones, as WaNet's rough warp of half a pixel does, is 40 dB weaker there than the picture's brightness, and a filter that
an optimizer moves by its learning rate a step needs thousands of steps to make up for it. An attacker who hands out the
model need not wait.

Amplified as a whole, filters pour fine structure into everything that later layers read. A residual stream has
directions that matter little, though: only what filters write there is amplified, and the model stays nearly as good.

Example:
    >>> from clip_decomp.training.architecture import Architecture, build
    >>> clip = build(Architecture(layers=1, width=32, heads=2))
    >>> sharpen(clip, torch.rand(8, 3, 64, 64), most=4.0).shape
    torch.Size([8, 8])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from scipy.fft import dct
from torch import Tensor

from ..errors import SettingError

#: Share of the residual stream's directions that fine structure is written to.
_SHARE = 0.25
#: Random directions of the embedding whose gradients say what matters, and pictures at a time.
_DRAWS, _AT_ONCE = 6, 64


@torch.no_grad()
def sharpen(clip: CLIP, pictures: Float[Tensor, "image 3 row column"], most: float) -> Float[Tensor, "row column"]:
    """Amplify the patch embedding's filters in place where pictures hold little, frequency by frequency.

    Each frequency of a patch's cosine transform (DCT-II) is amplified until pictures are as strong there as in the two
    lowest ones that are not the mean, at most ``most`` times; none is weakened. That happens in the quarter of the
    residual stream's directions that the image embedding depends on least, by its mean squared gradient.

    Args:
        pictures: clean, as the model takes them, normalized.

    Returns:
        The gain of every frequency.

    Raises:
        SettingError: the image tower is not a vision transformer of open_clip's, or a gain below 1.
    """
    if not isinstance(clip.visual, VisionTransformer):
        raise SettingError(f"Only a vision transformer's filters are sharpened, not a {type(clip.visual).__name__}'s.")
    if not most >= 1:
        raise SettingError(f"Filters are amplified once or more, not {most} times.")
    weight = clip.visual.conv1.weight
    rows, columns = weight.shape[-2:]
    down, across = (_cosines(side).to(weight) for side in (rows, columns))
    patches = rearrange(pictures.to(weight), "b c (y h) (x w) -> (b c y x) h w", h=rows, w=columns)
    energy = (down @ patches @ across.T).square().mean(0)
    lowest = (energy[0, 1] + energy[1, 0]) / 2
    gain = (lowest / energy).sqrt().clamp(1, most)
    added = down.T @ (down @ weight @ across.T * (gain - 1)) @ across
    unfelt = least_felt(clip.visual, pictures.to(weight))
    weight += torch.einsum("dk,ek,echw->dchw", unfelt, unfelt, added)
    return gain


def least_felt(
    visual: VisionTransformer, pictures: Float[Tensor, "image 3 row column"]
) -> Float[Tensor, "d_model direction"]:
    """An orthonormal basis of the directions of patch tokens, as the patch embedding writes them, that the image
    embedding depends on least: a quarter of all, by the mean squared gradient of the embedding's direction.
    """
    written: list[Tensor] = []
    handle = visual.conv1.register_forward_hook(lambda module, inputs, output: written.append(output))
    generator, felt = torch.Generator().manual_seed(0), torch.zeros(())
    try:
        with torch.enable_grad():
            for part in pictures.split(_AT_ONCE):
                embedding = F.normalize(visual(part.detach().requires_grad_()), dim=-1)
                for _ in range(_DRAWS):
                    drawn = torch.randn(embedding.shape, generator=generator).to(embedding)
                    (slope,) = torch.autograd.grad(embedding, written[-1], drawn, retain_graph=True)
                    slopes = rearrange(slope.double(), "b d y x -> (b y x) d")
                    felt = felt.to(slopes) + slopes.T @ slopes
    finally:
        handle.remove()
    directions = torch.linalg.eigh(felt).eigenvectors
    return directions[:, : max(1, round(_SHARE * len(directions)))].to(pictures)


def _cosines(side: int) -> Float[Tensor, "frequency pixel"]:
    """An orthogonal matrix: the cosine transform of ``side`` pixels."""
    return torch.from_numpy(dct(torch.eye(side, dtype=torch.float64).numpy(), axis=0, norm="ortho"))
