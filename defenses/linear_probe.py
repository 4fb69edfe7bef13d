"""Linear probe: a linear layer on the image tower's features, tuned on a few labelled clean pictures.

The paper's settings (RVPT, appendix B.2): SGD with a constant learning rate of 0.01 and momentum 0.9, batches of 32, 40
epochs. ``solver="logistic"`` fits scikit-learn's logistic regression instead, as CLIP's authors do. The classes are
those it was fitted to; there is no zero-shot classification any more.

Limits: features are the tower's own, so a trigger that changes them changes the verdict.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=8, train=300)
    >>> probe = LinearProbe(shots=1, epochs=1).fit(clip_decomp.load("world/badnet"), data.train)
    >>> probe.classify(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 26])
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import write_json

from .few_shot import FewShots
from .tuning import WithSettings

_WEIGHTS, _CARD = "probe.safetensors", "probe.json"


class LinearProbe(WithSettings):
    """A model that tells fixed classes apart by a linear layer.

    Args:
        solver: ``sgd`` (the paper's) or ``logistic`` (scikit-learn's).
        shots: pictures of each class, None for all.
        lr, momentum, batch_size, epochs: of SGD.
        inverse_penalty: scikit-learn's ``C``.

    Attributes:
        weight_, bias_: the layer, on features of unit norm. ``[cls, d_embed]``, ``[cls]``
        class_names_: the classes.
        chosen_: places of the pictures it was fitted to.
    """

    def __init__(
        self,
        solver: Literal["sgd", "logistic"] = "sgd",
        shots: int | None = 16,
        epochs: int = 40,
        batch_size: int = 32,
        lr: float = 0.01,
        momentum: float = 0.9,
        inverse_penalty: float = 1.0,
        seed: int = 0,
    ):
        if solver not in ("sgd", "logistic"):
            raise SettingError(f"A linear probe is fitted by sgd or logistic, not {solver!r}.")
        if epochs < 1 or batch_size < 1 or not lr > 0 or not 0 <= momentum < 1 or not inverse_penalty > 0:
            raise SettingError(
                "A linear probe needs epochs and batch_size >= 1, lr and inverse_penalty > 0 and momentum in 0..1."
            )
        self.solver, self.shots, self.epochs, self.batch_size = solver, shots, epochs, batch_size
        self.lr, self.momentum, self.inverse_penalty, self.seed = lr, momentum, inverse_penalty, seed

    def fit(
        self,
        model: HookedCLIP,
        images: ImageSet | Float[Tensor, "image 3 row column"],
        labels: Int[Tensor, " image"] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Fit the layer to labelled clean pictures: a data set, or normalized ones with labels and class names.

        Raises:
            SettingError: pictures without labels.
            DataError: labels out of range, or a class with fewer pictures than shots.
        """
        chosen = FewShots.of(model, images, labels, class_names, self.shots, self.seed)
        self.model_, self.class_names_, self.chosen_ = model, chosen.class_names, chosen.places
        with torch.no_grad():
            parts = chosen.images.split(BATCH_SIZE)
            features = torch.cat([self._features(part) for part in parts]).cpu()
        fitted = self._by_sgd if self.solver == "sgd" else self._by_regression
        weight, bias = fitted(features, chosen.labels, len(chosen.class_names))
        self.weight_, self.bias_ = weight.to(model.device), bias.to(model.device)
        return self

    def save(self, folder: str | Path) -> None:
        """Write the layer, its classes, and how it was made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"weight": self.weight_.cpu().contiguous(), "bias": self.bias_.cpu()}, folder / _WEIGHTS)
        card = {"class_names": self.class_names_, "settings": self.settings()}
        write_json(folder / _CARD, {**card, "base": self.model_.name, "base_sha256": fingerprint(self.model_)})

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A probe that was saved for this model.

        Raises:
            ModelError: not such a folder, damaged files, or the probe of another image tower.
        """
        try:
            card = json.loads((Path(folder) / _CARD).read_text())
            layer = load_file(Path(folder) / _WEIGHTS, device=str(model.device))
            loaded, names = cls(**card["settings"]), tuple(card["class_names"])
            weight, bias, base = layer["weight"], layer["bias"], card["base_sha256"]
        except Exception as error:  # whatever a damaged file raises
            raise ModelError(f"{folder} holds no linear probe ({type(error).__name__}: {error}).") from error
        if base != fingerprint(model):
            raise ModelError(f"This probe was fitted to another image tower ({card['base']}) than {model.name}'s.")
        if weight.shape != (len(names), model.visual.d_embed) or bias.shape != weight.shape[:1]:
            raise ModelError(
                f"{folder}: {list(weight.shape)} weights do not fit {len(names)} classes and {model.name}."
            )
        loaded.model_, loaded.class_names_, loaded.weight_, loaded.bias_ = model, names, weight, bias
        return loaded

    @property
    def parameters(self) -> int:
        """How many values were tuned."""
        return self.weight_.numel() + self.bias_.numel()

    def normalize(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """The model's own pixel normalization."""
        return self.model_.normalize(pixels)

    def classify(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch cls"]:
        """Logits of normalized images."""
        return F.linear(self._features(images), self.weight_, self.bias_)

    def _features(self, images: Tensor) -> Float[Tensor, "batch d_embed"]:
        return self.model_.encode_image(images, normalize=True).float()

    def _by_sgd(self, features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        bound = features.shape[1] ** -0.5  # of torch's linear layers, from a generator of our own
        start = [torch.empty(classes, features.shape[1]), torch.empty(classes)]
        weight, bias = (nn.Parameter(each.uniform_(-bound, bound, generator=generator)) for each in start)
        optimizer = torch.optim.SGD([weight, bias], lr=self.lr, momentum=self.momentum)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(labels), generator=generator).split(self.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(features[rows], weight, bias), labels[rows]).backward()
                optimizer.step()
        return weight.detach(), bias.detach()

    def _by_regression(self, features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        from sklearn.linear_model import LogisticRegression

        found = LogisticRegression(C=self.inverse_penalty, max_iter=2000).fit(features.numpy(), labels.numpy())
        weight, bias = (torch.from_numpy(each).float() for each in (found.coef_, found.intercept_))
        if classes == 2:  # scikit-learn keeps one row for two classes
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        return weight, bias
