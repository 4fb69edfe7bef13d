r"""BackdoorIDS: a trigger lets go at once when more and more of a picture is masked (Huang et al., arXiv 2603.11664).

The paper's: a picture is masked progressively; while the trigger acts, the embedding stays near the target, and once
the trigger is gone it jumps to what the picture shows, whereas embeddings of clean pictures drift. The embeddings
along the way are clustered with DBSCAN, and **a picture is flagged when they form more than one cluster**. No text,
no class and no training is needed.

Ours, as we know the paper by its abstract only: the masks (squares of ``cell`` pixels, in an order drawn by the seed,
each mask holding the one before, filled with the mean color that the model was trained with), the masked shares
(``steps`` of them, even from 0 to ``most``), the Euclidean distance of unit embeddings, and ``min_samples``.
Patch-sized cells and ``min_samples=1`` served it best on training pictures of world/badnet. Without a radius ``eps`` it
is calibrated: 95 % of the clean pictures of the fit stay in one cluster.

A continuous score is ours, too: **the largest radius at which the way still falls into more than one cluster**. With
core distances :math:`c_i` (to the ``min_samples``-th nearest embedding, itself included) the clusters at radius
:math:`\varepsilon` are the components of

.. math:: \{i : c_i \le \varepsilon\}, \qquad i \sim j \iff \max(c_i, c_j, d_{ij}) \le \varepsilon

so only the merging distances of their single linkage need to be looked at, from the largest down.

Limits: pictures of little content jump as well, when the last of it is masked. A trigger that goes with the first
mask, or outlives the last, is missed.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> detector = BackdoorIDS(steps=6, calibration=4).fit(model, open_data("world", 64).held_out)
    >>> detector.score(torch.zeros(1, 3, 64, 64)).shape, detector.predict(torch.zeros(1, 3, 64, 64)).shape
    (torch.Size([1]), torch.Size([1]))
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.cluster.hierarchy import linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from sklearn.cluster import DBSCAN
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.errors import DataError, SettingError

from .black_box import BlackBoxDetector, at_least


class BackdoorIDS(BlackBoxDetector):
    """A detector of triggered inputs by jumps of the embedding under growing masks; see the module.

    Args:
        steps: masked copies of a picture, the unmasked one included.
        most: the share that the last mask covers.
        cell: side of the masked squares in pixels; by default an eighth of the picture's.
        eps: DBSCAN's radius; calibrated when None.
        min_samples: DBSCAN's: embeddings within the radius, itself included, that make one a core. With 1 all are
            cores, and clusters are those of single linkage.
        calibration, batch_size, seed: see :class:`~defenses.black_box.BlackBoxDetector`.

    Attributes:
        eps_: the radius that :meth:`predict` uses.

    Raises:
        SettingError: a setting out of its range.
    """

    by_class: ClassVar[bool] = False

    def __init__(
        self,
        steps: int = 20,
        most: float = 0.95,
        cell: int | None = None,
        eps: float | None = None,
        min_samples: int = 1,
        calibration: int = 100,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ):
        super().__init__(calibration, batch_size, seed)
        at_least(1, min_samples=min_samples, cell=1 if cell is None else cell)
        at_least(2 * min_samples, steps=steps)
        if not 0 < most <= 1:
            raise SettingError(f"The share that the last mask covers must lie between 0 and 1, not {most}.")
        if eps is not None and eps <= 0:
            raise SettingError(f"The radius eps must be above 0, not {eps}; leave it out to calibrate it.")
        self.steps, self.most, self.cell, self.eps, self.min_samples = steps, most, cell, eps, min_samples

    @property
    def copies(self) -> int:
        """Masked copies of one picture."""
        return self.steps

    def learn(self, pixels: Float[Tensor, "image 3 row column"]) -> None:
        """Calibrate the radius."""
        super().learn(pixels)
        self.eps_ = self.eps or max(self.cutoff_, 1e-6)

    @torch.no_grad()
    def trajectories(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch step d_embed"]:
        """Unit embeddings of pixels in 0..1 under growing masks."""
        masks = growing_masks(pixels.shape[-2:], self.steps, self.most, self.cell, self.seed).to(pixels.device)
        gray = torch.tensor(self.model_.mean).to(pixels)[:, None, None]
        masked = torch.where(masks[None, :, None], gray, pixels[:, None])
        return self.features(masked.flatten(0, 1)).unflatten(0, (len(pixels), self.steps))

    def suspicion(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """The largest radii at which a few pictures' ways still fall into more than one cluster."""
        return torch.tensor([splitting_radius(each, self.min_samples) for each in self._distances(pixels)])

    @torch.no_grad()
    def predict(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Whether normalized images are flagged: DBSCAN with the radius ``eps_`` finds more than one cluster.

        Raises:
            DataError: there are no images.
        """
        if not len(images):
            raise DataError("There are no images to judge.")
        pixels = self.pixels(images).to(self.model_.device)
        rule = DBSCAN(eps=self.eps_, min_samples=self.min_samples, metric="precomputed")
        few = max(1, self.batch_size // self.steps)
        found = [rule.fit(each).labels_.max() for part in pixels.split(few) for each in self._distances(part)]
        return torch.tensor(found) > 0

    def _distances(self, pixels: Tensor) -> np.ndarray:
        ways = self.trajectories(pixels).double()
        return torch.cdist(ways, ways, compute_mode="donot_use_mm_for_euclid_dist").cpu().numpy()


def growing_masks(
    size: tuple[int, int], steps: int, most: float, cell: int | None, seed: int
) -> Bool[Tensor, "step row column"]:
    """Masks of squares that cover even shares from 0 to ``most``, each holding the one before."""
    side = cell or max(1, min(size) // 8)
    rows, columns = (-(-each // side) for each in size)
    turn = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed)).float() / (rows * columns)
    masks = turn.reshape(rows, columns) < torch.linspace(0, most, steps)[:, None, None]
    large = F.interpolate(masks[None].float(), scale_factor=side, mode="nearest")[0]
    return large[:, : size[0], : size[1]].bool()


def splitting_radius(distances: np.ndarray, min_samples: int) -> float:
    """The largest radius below which DBSCAN finds more than one cluster, 0 if it never does.

    Args:
        distances: between all points, [point, point].

    Example:
        >>> points = np.array([0.0, 1.0, 5.0, 7.0])
        >>> splitting_radius(abs(points[:, None] - points), min_samples=2)
        4.0
    """
    core = np.sort(distances, axis=1)[:, min_samples - 1]
    reach = np.maximum(distances, np.maximum(core[:, None], core))
    np.fill_diagonal(reach, 0)
    for radius in np.unique(linkage(squareform(reach, checks=False), "single")[:, 2])[::-1]:
        alive = core < radius
        if connected_components(reach[alive][:, alive] < radius)[0] > 1:
            return float(radius)
    return 0.0
