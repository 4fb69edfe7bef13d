"""t-SNE of clean and triggered features in one map, and numbers for what the map seems to show.

RVPT (Zhang et al.), figure 6: under a backdoor the triggered representations cluster, "focus solely on the trigger
pattern", and a good defense brings each back to its original. A map cannot be checked by eye alone: t-SNE (van der
Maaten and Hinton 2008) keeps neighbors, not distances or densities, and always shows clusters. So every claim comes as
a number, taken in the feature space, where u are unit features and d(u, v) = 1 - cos(u, v):

* silhouette of the triggered points: mean of ``(b - a) / max(a, b)``, with a the mean distance to the other triggered
  points and b that to all clean ones (*as one cluster*; also in the map, with its distances), or to those of the
  nearest clean class (*apart*). As one cluster near 1: the triggered features have collapsed. Apart near 1: they have
  collapsed to a place where no class lies; near 0 or below: into a clean class;
* silhouette by true class of the clean and of the triggered points among themselves: how much of the class is left;
* distance of a triggered feature to its clean partner, in units of the mean distance of two different clean pictures:
  0 is untouched, 1 is as far as a random picture;
* share of triggered points whose nearest clean point (their own partner included), or nearest mean of a clean class, is
  of their true class or of the target class; pictures of the target class are left out of these when a target is given.

Limits: distances of all pairs are held, so hundreds to a few thousand pictures, not tens of thousands. The triggered
silhouette as one cluster grows with the spread of the clean data: compare models on the same pictures. When triggered
points have collapsed, one odd clean picture can be the nearest of nearly all of them, and the shares by nearest point
hang on its class; those by class mean do not.

Example:
    >>> clean = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    >>> found = embed(clean, clean, torch.arange(40) % 4, target=1, perplexity=10)
    >>> found.points.shape, found.numbers.partner_mean, found.numbers.nearest_true
    ((80, 2), 0.0, 1.0)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..data.sets import BATCH_SIZE, ImageSet
from ..errors import DataError
from ..evaluation import Encoder
from .embedding_inputs import check_settings, labels_of, unit

#: Below this mean distance of two clean pictures there is nothing to compare distances with.
_CONSTANT = 1e-12
_WORDS = {
    "triggered_silhouette": "silhouette of triggered points as one cluster",
    "triggered_silhouette_map": "the same, in the map",
    "triggered_silhouette_apart": "silhouette of triggered points against the nearest clean class",
    "class_silhouette_clean": "silhouette by true class, clean points",
    "class_silhouette_triggered": "silhouette by true class, triggered points",
    "partner_mean": "distance to the clean partner, mean (1 = a random clean pair)",
    "partner_median": "distance to the clean partner, median (1 = a random clean pair)",
    "random_pair": "mean cosine distance of two clean pictures",
    "nearest_true": "share whose nearest clean point is of the true class",
    "nearest_target": "share whose nearest clean point is of the target class",
    "nearest_mean_true": "share whose nearest mean of a clean class is of the true class",
    "nearest_mean_target": "share whose nearest mean of a clean class is of the target class",
}


@dataclass(frozen=True)
class EmbeddingNumbers:
    """What a map of clean and triggered features claims, as numbers; the module's docstring defines them.

    Attributes:
        partner_mean, partner_median: in units of ``random_pair``.
        nearest_target, nearest_mean_target: None without a target.
        counted: triggered pictures that the shares are of.
    """

    triggered_silhouette: float
    triggered_silhouette_map: float
    triggered_silhouette_apart: float
    class_silhouette_clean: float
    class_silhouette_triggered: float
    partner_mean: float
    partner_median: float
    random_pair: float
    nearest_true: float
    nearest_target: float | None
    nearest_mean_true: float
    nearest_mean_target: float | None
    counted: int


@dataclass(frozen=True)
class Embedding:
    """A map of clean and triggered pictures; row k and row ``n + k`` are one picture without and with the trigger.

    Attributes:
        points: places in the map, which have no unit: clean ones first, then triggered ones.
        is_triggered: which point is which.
        labels: true classes.
        target: class that the attack aims at, if known.
        numbers: the map's claims, measured.
    """

    points: Float[np.ndarray, "point 2"]
    is_triggered: Bool[np.ndarray, " point"]
    labels: Int[np.ndarray, " point"]
    target: int | None
    perplexity: float
    seed: int
    numbers: EmbeddingNumbers

    def to_frame(self):
        """A pandas ``DataFrame`` with one row a point."""
        import pandas as pd

        picture = np.tile(np.arange(len(self.labels) // 2), 2)
        x, y = self.points.T
        return pd.DataFrame({"picture": picture, "triggered": self.is_triggered, "label": self.labels, "x": x, "y": y})

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``: ``<prefix>/tsne-partner-mean`` and so on, one a number."""
        return {f"{prefix}/tsne-{name.replace('_', '-')}": value for name, value in self._known().items()}

    def _known(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self.numbers).items() if name in _WORDS and value is not None}

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [(_WORDS[name], value) for name, value in self._known().items()]
        table = pd.DataFrame(rows, columns=["measure", "value"]).to_html(index=False, float_format=lambda x: f"{x:.3f}")
        return (
            f"<p>t-SNE of {len(self.labels) // 2} pictures, clean and triggered (perplexity {self.perplexity:g}, "
            f"seed {self.seed}); nearest points of {self.numbers.counted} of them</p>{table}"
        )


@torch.no_grad()
def paired_features(
    model: Encoder,
    data: ImageSet,
    trigger: Trigger,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> tuple[Float[Tensor, "image d_embed"], Float[Tensor, "image d_embed"], Int[Tensor, " image"]]:
    """Representations of every picture without and with the trigger, row by row, and true classes, for :func:`embed`.

    Raises:
        DataError: none of the pictures can be read.
    """
    clean, triggered, labels = [], [], []
    for pixels, truths, numbers in pictures(data, None, batch_size, progress):
        clean.append(model.encode_image(model.normalize(pixels)).cpu())
        triggered.append(model.encode_image(model.normalize(trigger(pixels, numbers))).cpu())
        labels.append(truths)
    return torch.cat(clean), torch.cat(triggered), torch.cat(labels)


def embed(
    features_clean: Float[Tensor, "image d_embed"],
    features_triggered: Float[Tensor, "image d_embed"],
    labels: Int[Tensor, " image"],
    target: int | None = None,
    perplexity: float = 30.0,
    seed: int = 0,
) -> Embedding:
    """Map clean and triggered features together with scikit-learn's t-SNE, and measure what the map claims.

    t-SNE runs on unit features, whose squared Euclidean distance is twice their cosine distance, from the first two
    principal components and with the learning rate chosen by the number of points; one seed gives one map.

    Args:
        features_clean, features_triggered: of the same pictures in the same order, of any length.
        labels: true classes of the pictures.
        target: class that the attack aims at.
        perplexity: about how many neighbors of a point count; at most a third of the points.

    Raises:
        DataError: features that are not finite, zero, constant, or of other shapes than their partners; labels of one
            class only, or all different; no clean picture of the target.
        SettingError: a perplexity that is too large for so few pictures, or below 1; a seed out of range.
    """
    clean, triggered = unit(features_clean, "clean"), unit(features_triggered, "triggered")
    truths = labels_of(clean, triggered, labels, target)
    check_settings(len(clean), perplexity, seed)
    # Of unit vectors, the mean over all pairs of different rows.
    random_pair = float(np.square(clean - clean.mean(0)).sum() / (len(clean) - 1))
    if random_pair < _CONSTANT:
        raise DataError(f"All {len(clean)} clean features point the same way: there is nothing to map or to compare.")

    from sklearn.manifold import TSNE

    both = np.concatenate([clean, triggered])
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    points = tsne.fit_transform(both).astype(np.float64)
    numbers = _numbers(clean, triggered, points, truths, target, random_pair)
    is_triggered = np.arange(len(both)) >= len(clean)
    return Embedding(points, is_triggered, np.tile(truths, 2), target, perplexity, seed, numbers)


def _numbers(
    clean: Float[np.ndarray, "image d_embed"],
    triggered: Float[np.ndarray, "image d_embed"],
    points: Float[np.ndarray, "point 2"],
    labels: Int[np.ndarray, " image"],
    target: int | None,
    random_pair: float,
) -> EmbeddingNumbers:
    from scipy.spatial.distance import pdist, squareform

    n = len(clean)
    both = np.concatenate([clean, triggered])
    distances = np.clip(1 - both @ both.T, 0, 2)
    np.fill_diagonal(distances, 0)
    sides = np.repeat([0, 1], n)
    is_triggered = sides == 1
    own_cluster = np.concatenate([labels, np.full(n, labels.max() + 1)])
    partners = np.square(clean - triggered).sum(1) / 2 / random_pair
    counted = np.ones(n, bool) if target is None else labels != target
    truths, nearest = labels[counted], labels[distances[n:, :n].argmin(1)][counted]
    nearest_mean = _nearest_mean(clean, triggered, labels)[counted]
    return EmbeddingNumbers(
        triggered_silhouette=_silhouette(distances, sides, is_triggered),
        triggered_silhouette_map=_silhouette(squareform(pdist(points)), sides, is_triggered),
        triggered_silhouette_apart=_silhouette(distances, own_cluster, is_triggered),
        class_silhouette_clean=_silhouette(distances[:n, :n], labels),
        class_silhouette_triggered=_silhouette(distances[n:, n:], labels),
        partner_mean=float(partners.mean()),
        partner_median=float(np.median(partners)),
        random_pair=random_pair,
        nearest_true=float((nearest == truths).mean()),
        nearest_target=None if target is None else float((nearest == target).mean()),
        nearest_mean_true=float((nearest_mean == truths).mean()),
        nearest_mean_target=None if target is None else float((nearest_mean == target).mean()),
        counted=int(counted.sum()),
    )


def _silhouette(
    distances: Float[np.ndarray, "point point"],
    clusters: Int[np.ndarray, " point"],
    of: Bool[np.ndarray, " point"] | slice = slice(None),
) -> float:
    from sklearn.metrics import silhouette_samples

    return float(silhouette_samples(distances, clusters, metric="precomputed")[of].mean())


def _nearest_mean(clean: np.ndarray, triggered: np.ndarray, labels: np.ndarray) -> Int[np.ndarray, " image"]:
    """Class whose mean of unit features is the nearest by cosine."""
    classes = np.unique(labels)
    means = np.stack([clean[labels == label].mean(0) for label in classes])
    norms = np.maximum(np.linalg.norm(means, axis=1), _CONSTANT)
    return classes[(triggered @ means.T / norms).argmax(1)]
