r"""AdvPT: adversarial prompt tuning (Zhang et al., ECCV 2024), the rival of RVPT's table 10.

One context of learnable tokens, shared by all classes, is tuned so that the classes' texts are nearest to *adversarial*
pictures' features. These are made once, by PGD against the model's own zero-shot prompts, and kept (the paper's
"adversarial embedding bank"); every weight of the model stays as it is.

Limits: noise that is made against the tuned prompts themselves was never seen.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=8, train=300)
    >>> tuned = AdvPT(shots=1, epochs=1, steps=1, progress=False).fit(clip_decomp.load("world/clean"), data.train)
    >>> tuned.class_vectors().shape, tuned.parameters
    (torch.Size([26, 128]), 512)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE, PLAIN_TEMPLATE, ImageSet
from clip_decomp.evaluation import scorer
from clip_decomp.model import HookedCLIP
from clip_decomp.prompts.classwise import ClassPrompts, check_contexts
from clip_decomp.prompts.stored import read_card

from .defended import TextSideDefense
from .few_shot import FewShots, check_shots
from .robustness import check_noise, pgd
from .tuning import TunedTokens, frozen


class AdvPT(TunedTokens, TextSideDefense):
    """A model whose classes are told by a shared context tuned on adversarial pictures.

    Args:
        length: context tokens.
        words: what the context starts as; random by default.
        shots: pictures of each class, None for all.
        lr: of SGD, for losses summed over the batch and divided by ``batch_size``, with cosine decay to zero.
        budget: largest change of a pixel value, in 0..1.
        steps: of PGD.

    Attributes:
        history_: for every epoch the mean cross-entropy of its pictures.
        chosen_: places of the pictures that it was tuned on.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        length: int = 4,
        words: str | None = None,
        shots: int | None = 16,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 2e-3,
        momentum: float = 0.9,
        budget: float = 8 / 255,
        steps: int = 10,
        seed: int = 0,
        progress: bool = True,
    ):
        check_contexts(length, "end")
        check_shots(shots)
        check_noise(budget, steps)
        self.length, self.words, self.shots, self.budget, self.steps = length, words, shots, budget, steps
        self.epochs, self.batch_size, self.lr, self.momentum = epochs, batch_size, lr, momentum
        self.seed, self.progress = seed, progress
        self.tuning()  # complains about settings out of its range

    def fit(
        self,
        model: HookedCLIP,
        images: ImageSet | Float[Tensor, "image 3 row column"],
        labels: Int[Tensor, " image"] | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
    ) -> Self:
        """Tune the context on labelled clean pictures: a data set, or normalized pictures with labels and class names.

        Raises:
            SettingError: foolbox is missing, names that do not fit in the context, or pictures without labels.
            DataError: labels out of range, or a class with fewer pictures than shots.
        """
        chosen = FewShots.of(model, images, labels, class_names, self.shots, self.seed, templates)
        self.chosen_ = chosen.places
        prompts = ClassPrompts(model, chosen.class_names, self.length, shared=True, words=self.words, seed=self.seed)
        self._prompted(model, prompts)
        with frozen(model.clip):
            bank = self._adversarial(chosen).to(model.device)
            truth, scale = chosen.labels.to(model.device), model.logit_scale.detach()

            def losses(rows: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
                loss = F.cross_entropy(scale * bank[rows] @ prompts.vectors().T, truth[rows], reduction="sum")
                return loss / self.batch_size, {"cross_entropy": loss.detach()}

            self.history_ = self.tuning().tune(prompts, len(truth), losses, "advpt", self.progress)
        return self

    def save(self, folder: str | Path) -> None:
        """Write the context and how it was made."""
        self.prompts_.save(folder, defense="advpt", settings=self.settings())

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A defense that was saved for this model; raises what :meth:`ClassPrompts.load` does."""
        prompts, card = ClassPrompts.load(folder, model), read_card(folder)
        loaded = cls(**card.get("settings", {}))
        loaded._prompted(model, prompts)
        return loaded

    def _adversarial(self, chosen: FewShots) -> Float[Tensor, "image d_embed"]:
        """Unit features of the chosen pictures under PGD against the model's zero-shot prompts."""
        model, found = self.model_, []
        logits = scorer(model, chosen.class_names, chosen.templates, model.logit_scale.item())
        for images, labels in zip(chosen.images.split(BATCH_SIZE), chosen.labels.split(BATCH_SIZE), strict=True):
            noisy = pgd(logits, model.denormalize(images).clamp(0, 1), labels, self.budget, self.steps, self.seed)
            with torch.no_grad():
                found.append(model.encode_image(model.normalize(noisy), normalize=True).float())
        return torch.cat(found)
