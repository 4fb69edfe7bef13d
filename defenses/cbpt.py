r"""CBPT: class-wise text prompts that hold against inverted triggers (Kong et al. 2025), reconstructed from the text.

Every weight of the model stays as it is; each class gets learnable context tokens before (or after, around) its name.
For a labelled clean picture x of class y, with p(c | x) the zero-shot softmax under the prompts and x' = x + delta from
:mod:`defenses.inversion` aimed at :math:`y^* = \arg\max_{c \ne y} \cos(V(x), T(t_c))`,

.. math::
    L = \lambda_{ce} [CE(x, y) + \lambda_{noisy} CE(x', y)] + \lambda_{bd} [-\log(1 - p(y^* | x'))]
        + \lambda_{align} \, p(y | x) \, KL(p(\cdot | x) \| p(\cdot | x'))

is descended by SGD; the weights 1, 0.4, 0.4 are the text's without saying which is which, :math:`\lambda_{noisy}` is
ours (1 in the paper), and p(. | x) is taken as given (detached) where the perturbed picture is aligned to it. The first
epochs (warm-up) descend CE(x, y) alone.

Features of clean images are computed once, and those under noise once for each class that a picture is taken towards:
noise does not depend on the prompts otherwise. The image tower is only called, so every kind will do.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=8, train=300)
    >>> cbpt = CBPT(shots=1, epochs=2, warmup=1, progress=False).fit(clip_decomp.load("world/badnet"), data.train)
    >>> cbpt.class_vectors().shape, cbpt.parameters
    (torch.Size([26, 128]), 13312)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.prompts.classwise import ClassPrompts, Position, check_contexts
from clip_decomp.prompts.stored import read_card
from clip_decomp.training.lean import lean
from clip_decomp.training.parallel import launched

from .defended import TextSideDefense
from .few_shot import FewShots, check_shots
from .inversion import Inversion, invert_trigger
from .inverted import Inverted
from .tuning import TunedTokens, frozen
from .universal import towards, under

#: What was found for a class that an audit suspects, not in the paper (docs/measurements.md): where one class has to be
#: pushed away, perturbed pictures need not be recognized again, which costs clean accuracy.
_AIMED: dict[str, Any] = {
    "words": "a photo of a",
    "epochs": 60,
    "warmup": 0,
    "lr": 0.02,
    "weight_bd": 0.2,
    "weight_align": 0.0,
    "weight_noisy": 0.0,
}
#: With more classes the text tower's activations are computed again in the backward pass instead of kept.
RECOMPUTE_FROM = 128


class CBPT(TunedTokens, TextSideDefense):
    """A model whose classes are told by tuned class-wise text prompts.

    Args:
        length: context tokens a class.
        position: of the class's name: ``end``, ``middle`` or ``front``.
        shared: one context for all classes.
        words: what contexts start as; random by default.
        shots: pictures of each class, None for all.
        warmup: epochs that descend the clean cross-entropy alone.
        lr: of SGD, for losses summed over the batch and divided by ``batch_size``, with cosine decay to zero.
        weight_ce, weight_bd, weight_align: of the cross-entropies, the backdoor loss and the alignment.
        weight_noisy: of the perturbed pictures' cross-entropy within the cross-entropies.
        aim: the class that every picture of another one is taken towards, instead of its own :math:`y^*`: the one that
            an audit found suspicious (:mod:`defenses.audit`). The inner loop's noise is universal then
            (:mod:`defenses.universal`). Not in the paper.
        inversion: settings of the inner loop where there is no aim.
        keep_noise: compute a picture's noise once for each class that it is taken towards, not in every epoch; the same
            numbers but for roundings.
        bf16: invert triggers in bfloat16 where autocast allows it.
        checkpoint: a folder that is written after every epoch; a run that is found there goes on.

    Attributes:
        prompts_: the tuned :class:`~clip_decomp.prompts.classwise.ClassPrompts`.
        class_names_: the classes.
        history_: for every epoch the means over its pictures of the losses, how often x' was taken for y* (``fooled``),
            and how often its noise was not known yet (``inverted``).
        chosen_: places of the pictures that it was tuned on.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        length: int = 4,
        position: Position = "end",
        shared: bool = False,
        words: str | None = None,
        shots: int | None = 16,
        epochs: int = 20,
        warmup: int = 5,
        batch_size: int = 32,
        lr: float = 2e-3,
        momentum: float = 0.9,
        weight_ce: float = 1.0,
        weight_bd: float = 0.4,
        weight_align: float = 0.4,
        weight_noisy: float = 1.0,
        aim: str | None = None,
        inversion: Inversion | None = None,
        keep_noise: bool = True,
        bf16: bool = True,
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: bool = True,
    ):
        weights = weight_ce, weight_bd, weight_align, weight_noisy
        if warmup < 0 or min(weights) < 0:
            raise SettingError(f"CBPT needs warmup and weights >= 0, not {warmup} and {weights}.")
        if warmup >= epochs > 0:
            raise SettingError(
                f"{warmup} epochs of warm-up leave none of {epochs} to hold against triggers: fewer, please."
            )
        if aim is not None and inversion is not None:
            raise SettingError("Where CBPT is aimed, its noise is universal: there is no inner loop to set.")
        check_contexts(length, position)
        check_shots(shots)
        self.length, self.position, self.shared, self.words = length, position, shared, words
        self.shots, self.epochs, self.warmup, self.batch_size = shots, epochs, warmup, batch_size
        self.weight_ce, self.weight_bd, self.weight_align, self.weight_noisy = weights
        self.lr, self.momentum, self.aim, self.inversion = lr, momentum, aim, inversion or Inversion()
        self.keep_noise = keep_noise
        self.bf16, self.seed, self.checkpoint, self.progress = bf16, seed, checkpoint, progress
        self.tuning()  # complains about settings out of its range

    @classmethod
    def aimed(cls, suspect: str, **changes: Any) -> Self:
        """CBPT for the class that an audit suspects, by the settings that were found for it, but for ``changes``.

        Example:
            >>> CBPT.aimed("banana", shots=8).settings()["aim"]
            'banana'
        """
        return cls(**{**_AIMED, "aim": suspect, **changes})

    def fit(
        self,
        model: HookedCLIP,
        images: ImageSet | Float[Tensor, "image 3 row column"],
        labels: Int[Tensor, " image"] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """Tune contexts on labelled clean pictures: a data set, or normalized pictures with labels and class names.

        Raises:
            SettingError: class names that do not fit in the context, or pictures without labels.
            DataError: labels out of range, a class with fewer pictures than shots, or no class of the name to aim at.
            TrainingFailed: a loss that is not finite.
        """
        chosen = FewShots.of(model, images, labels, class_names, self.shots, self.seed)
        self.chosen_ = chosen.places
        names = chosen.class_names
        self._prompted(
            model, ClassPrompts(model, names, self.length, self.position, self.shared, self.words, self.seed)
        )
        with frozen(model.clip):
            self._tune(chosen)
        return self

    def settings(self) -> dict[str, Any]:
        """What was asked for; without the inner loop's settings where there is none."""
        found = super().settings()
        return found if self.aim is None else {key: each for key, each in found.items() if key != "inversion"}

    def save(self, folder: str | Path) -> None:
        """Write the contexts and how they were made."""
        image_tower = fingerprint(self.model_)
        self.prompts_.save(folder, defense="cbpt", settings=self.settings(), image_tower_sha256=image_tower)

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A defense that was saved for this model.

        Raises:
            ModelError: what :meth:`ClassPrompts.load` complains about, or another image tower.
        """
        prompts, card = ClassPrompts.load(folder, model), read_card(folder)
        if card.get("image_tower_sha256", fingerprint(model)) != fingerprint(model):
            raise ModelError(f"The contexts in {folder} were tuned for another image tower than {model.name}'s.")
        settings = dict(card.get("settings", {}))
        inner, warmup = settings.pop("inversion", {}), settings.pop("warmup", 0)
        if settings.get("aim") is None:
            if inner.get("norm") == "linf":  # earlier versions wrote larger ones, which are no bound either
                inner["budget"] = min(inner["budget"], 1.0)
            settings["inversion"] = Inversion(**inner)
        loaded = cls(**settings, warmup=0)
        loaded.warmup = warmup  # whatever it was, it is over
        loaded._prompted(model, prompts)
        return loaded

    def _tune(self, chosen: FewShots) -> None:
        device, images, aim = self.model_.device, chosen.images, None
        with torch.no_grad():
            bank = torch.cat([self._features(part.to(device)) for part in images.split(BATCH_SIZE)])
        labels = chosen.labels.to(device)
        if self.aim is not None:
            universal = towards(
                self.model_, chosen, self.aim, self.seed, self.bf16, self.checkpoint, progress=self.progress
            )
            aim = self.class_names_.index(self.aim)

        def perturbed(rows: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
            some = images[rows].to(device)
            if aim is not None:
                noisy = under(self.model_, some, universal, rows)
            else:
                positive = self.inversion.positive(bank[rows], wanted, bank, labels, generator)
                noise = invert_trigger(self.model_, some, positive, self.inversion, bf16=self.bf16)
                noisy = self.model_.normalize(self.model_.denormalize(some) + noise)
            with torch.no_grad():
                return self._features(noisy)

        drawn = aim is None and self.inversion.positives == "random"
        kept = Inverted(perturbed, keep=self.keep_noise and not drawn)

        def losses(rows: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            vectors = self.prompts_.vectors(recompute=len(self.class_names_) >= RECOMPUTE_FROM)
            clean, truth = self._log_probabilities(bank[rows], vectors), labels[rows]
            right = F.nll_loss(clean, truth, reduction="sum")
            if epoch < self.warmup:
                return right / self.batch_size, {"cross_entropy": right.detach()}
            wanted = clean.detach().scatter(1, truth[:, None], -torch.inf).argmax(1)
            counted = torch.ones_like(right).expand(len(rows))
            if aim is not None:  # its own pictures cannot be taken there
                counted, wanted = (truth != aim).float(), torch.full_like(wanted, aim)
            before = kept.computed
            bad = self._log_probabilities(kept(rows, wanted, generator), vectors)
            noisy = F.nll_loss(bad, truth, reduction="none") @ counted
            # log(1 - p(y*)) is that of the sum of all others, whose gradient stays where p(y*) is 1.
            pushed = -bad.scatter(1, wanted[:, None], -torch.inf).logsumexp(1) @ counted
            weight, given = clean.detach().gather(1, truth[:, None])[:, 0].exp(), clean.detach()
            aligned = F.kl_div(bad, given, reduction="none", log_target=True).sum(1) @ (weight * counted)
            parts = {"cross_entropy": right, "noisy_cross_entropy": noisy, "backdoor": pushed, "alignment": aligned}
            total = self.weight_ce * (right + self.weight_noisy * noisy)
            total = total + self.weight_bd * pushed + self.weight_align * aligned
            taken = (bad.argmax(1) == wanted).float() @ counted
            parts |= {"fooled": taken, "inverted": torch.tensor(float(kept.computed - before))}
            return total / self.batch_size, {key: value.detach() for key, value in parts.items()}

        identity: dict[str, Any] = {}
        keep = None
        if self.checkpoint is not None:
            identity = {**self.settings(), "base": fingerprint(self.model_), **chosen.identity(self.model_)}
            label, file = json.dumps(identity), self.checkpoint / f"inverted-{launched(device).rank}.safetensors"
            kept.load(file, label, device)
            keep = partial(kept.save, file, label)
        self.history_ = self.tuning().tune(
            self.prompts_, len(labels), losses, "cbpt", self.progress, self.checkpoint, lambda: identity, keep
        )

    def _features(self, images: Tensor) -> Tensor:
        with lean(self.model_.device, self.bf16):
            return self.model_.encode_image(images, normalize=True).float()

    def _log_probabilities(self, features: Tensor, vectors: Tensor) -> Float[Tensor, "batch cls"]:
        return F.log_softmax(self.model_.logit_scale.detach() * features @ vectors.T, dim=1)
