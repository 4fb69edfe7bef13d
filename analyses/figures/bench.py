"""What figures share: models of one scale by their attacks, and what was measured of them.

Measurements of training-free defenses are those of ``clip-decomp filtering``, those of tuned ones :mod:`analyses.fits`,
kept on disk one by one. Sweeps are made once; models are kept one at a time: figures are drawn attack by attack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_decomp.ablation import AblationResult, direct_sweeps
from clip_decomp.cli.run import Subject, open_subject
from clip_decomp.contributions import collect
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import ClipDecompError, SettingError
from clip_decomp.evaluation import ASR_GATE, Classifier, Encoder, Evaluation, PromptedClassifier, evaluate
from clip_decomp.methods.embedding import Embedding, embed, paired_features
from clip_decomp.methods.embedding_inputs import largest_perplexity
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.models.loading import load
from clip_decomp.zeroshot import sided_vectors

from .. import fits
from ..filtering import defended, kinds
from ..filtering import run as measured
from ..fits import Fit
from ..recalling import Recalling
from .setting import Setting

if TYPE_CHECKING:
    from .trainings import Training

#: Of t-SNE maps.
PERPLEXITY = 30.0
#: Test pictures for rivals that take dozens of passes a picture.
FEW = 128


class Attacked:
    """One attacked model and what was measured of it so far."""

    def __init__(self, setting: Setting, attack: str):
        self.setting, self.attack = setting, attack

    @cached_property
    def subject(self) -> Subject:
        """The model, its data and trigger."""
        each = self.setting
        data = each.data_of(self.attack)
        return open_subject(each.model(self.attack), data, None, None, each.images, each.seed, each.device)

    @cached_property
    def recalling(self) -> Recalling:
        """The model, for repairs that share their decompositions."""
        return Recalling(self.subject.model)

    @cached_property
    def held_out(self) -> ImageSet:
        """Clean pictures that are not test pictures."""
        return self.subject.data.held_out.first(self.setting.held_out)

    @cached_property
    def undefended(self) -> Evaluation:
        """Clean accuracy and ASR."""
        subject = self.subject
        if subject.trigger is None:
            raise SettingError(f"{subject.model.name} carries no attack on its card.")
        return evaluate(subject.model, subject.data.test, subject.trigger, subject.target)

    def defended(self, encoder: Encoder | Classifier | PromptedClassifier) -> dict[str, float]:
        """ASR, clean and poisoned accuracy under a defense."""
        return defended(encoder, self.subject)

    def embedded(self, model: Encoder, test: ImageSet) -> Embedding:
        """t-SNE of a model's clean and triggered representations."""
        subject = self.subject
        assert subject.trigger is not None
        assert subject.target is not None
        sides = paired_features(model, test, subject.trigger)
        perplexity = min(PERPLEXITY, largest_perplexity(len(test)))
        return embed(*sides, test.class_index(subject.target), perplexity, self.setting.seed)

    def sweeps(self) -> list[AblationResult]:
        """Direct effects of mean-ablation, layer by layer, in all schemes."""
        model, test, trigger = self.subject.model, self.subject.data.test, self.subject.trigger
        assert trigger is not None
        assert self.subject.target is not None
        means, vectors = collect(model, self.held_out).means(), sided_vectors(model, test, trigger)
        sides = (collect(model, test, each) for each in (None, trigger))
        return direct_sweeps(*sides, means, vectors, test.class_index(self.subject.target))


@dataclass
class Bench:
    """See the module.

    Attributes:
        folder: where measurements of defenses and what was tuned are kept.
    """

    setting: Setting
    folder: Path
    _known: dict[str, Attacked] = field(default_factory=dict)
    _sweeps: dict[str, list[AblationResult]] = field(default_factory=dict)
    _towers: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, attack: str) -> Attacked:
        """An attack's model, the last one asked for being kept."""
        if attack not in self._known:
            self._known.clear()
            self._known[attack] = Attacked(self.setting, attack)
        return self._known[attack]

    def sweeps(self, attack: str) -> list[AblationResult]:
        """An attack's sweeps, which several figures show; made once."""
        if attack not in self._sweeps:
            self._sweeps[attack] = self[attack].sweeps()
        return self._sweeps[attack]

    def possible(self, training: Training) -> bool:
        """Whether a training's model is there and the scale has the data that it needs."""
        return self.fit(training) is not None

    def fit(self, training: Training) -> Fit | None:
        """A training as it is kept on disk; None without a model that opens, or without its data."""
        if self.setting.absent(training.attack) is not None:
            return None
        if training.attack not in self._towers:
            try:
                self._towers[training.attack] = fingerprint(self[training.attack].subject.model)
            except ClipDecompError:  # refused() says why
                return None
        return training.fit(self.setting, self._towers[training.attack])

    def known(self, training: Training) -> dict[str, Any] | None:
        """What was measured of a training, None if it is not finished."""
        fit = self.fit(training)
        return None if fit is None else fits.known(fit, self.folder)

    def train(self, training: Training) -> None:
        """Finish a training, from where it was interrupted if it was."""
        fit = self.fit(training)
        if fit is None:
            raise SettingError(f"{training.label}: its model or its data is missing.")
        list(fits.run([fit], self.setting.data_of(training.attack), self.folder, self.setting.device))

    def tuned(self, training: Training) -> fits.Defense | HookedCLIP | None:
        """The defended model of a finished training; of one that is fine-tuned the model itself."""
        if self.known(training) is None:
            return None
        fit = self.fit(training)
        assert fit is not None
        return fits.opened(fit, self.folder, self[training.attack].subject.model)

    def refused(self, attack: str) -> str | None:
        """Why nothing is drawn from an attack: its model is missing or does not open, or the attack did not take."""
        absent = self.setting.absent(attack)
        if absent is not None:
            return absent
        try:
            success = self._parts(attack, ())[0]["numbers"]["asr"]
        except ClipDecompError as error:
            return str(error)
        return None if success >= ASR_GATE else f"its attack did not take (ASR {success:.1%})"

    def tower(self, attack: str) -> str:
        """Fingerprint of an attack's image tower."""
        return self._parts(attack, ())[0]["tower"]

    def plain_tower(self, name: str) -> str:
        """Fingerprint of a model that carries no attack."""
        if name not in self._towers:
            self._towers[name] = fingerprint(load(self.setting.model(name), device=self.setting.device))
        return self._towers[name]

    def defenses(self, attack: str, only: tuple[str, ...], few: bool = False) -> dict[str, dict[str, float]]:
        """Numbers of detectors and repairs by their names, ``none`` among them.

        Args:
            only: their kinds, such as ``decomp-rep``.
            few: on no more than ``FEW`` test pictures, for rivals that take dozens of passes a picture.
        """
        return {part["name"]: part["numbers"] for part in self._parts(attack, only, few)}

    def _parts(self, attack: str, only: tuple[str, ...], few: bool = False) -> list[dict[str, Any]]:
        each = self.setting
        images, left = min(each.images, FEW) if few else each.images, [kind for kind in kinds() if kind not in only]
        name = each.model(attack)
        return list(
            measured([name], each.data_of(attack), self.folder, images, each.held_out, each.seed, each.device, left)
        )
