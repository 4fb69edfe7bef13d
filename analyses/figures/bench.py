"""What figures share: models of one scale by their attacks, and what was measured of them.

Measurements of training-free defenses are those of ``clip-decomp filtering``, those of tuned ones :mod:`analyses.fits`,
kept on disk one by one. Sweeps are made once; models are kept one at a time: figures are drawn attack by attack.
"""

from __future__ import annotations

import shlex
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
from clip_decomp.zoo import shelf

from .. import fits
from ..filtering import defended, kinds
from ..filtering import run as measured
from ..fits import Fit
from ..recalling import Recalling

if TYPE_CHECKING:
    from .trainings import Training

#: The world's sets by those of the papers.
WORLD_SETS = {
    "ImageNet": "world",
    "Caltech-101": "world:tools",
    "Oxford Pets": "world:town",
    "ImageNet-V2": "world:resampled",
    "ImageNet-Sketch": "world:outlines",
    "ImageNet-R": "world:textures",
    "ImageNet-A": "world:hard",
}
#: Families of the zoo's models; Caltech-101 and Oxford Pets are models that aim at those sets' targets.
_ZOO = {
    "": "world",
    "resnet": "world-resnet",
    "patch-16": "world-p16",
    "labels": "world-labels",
    "Caltech-101": "world-tools",
    "Oxford Pets": "world-town",
}
#: Families whose targets are a user's choice at other scales than the world.
_AIMED = ("Caltech-101", "Oxford Pets")
#: What captioned pairs are called, which fine-tuning learns from where a scale has them; else from the main set's.
PAIRS = "CC3M"
#: Of t-SNE maps.
PERPLEXITY = 30.0
#: Test pictures for rivals that take dozens of passes a picture.
FEW = 128


@dataclass(frozen=True)
class Setting:
    """What all figures of a run are drawn from.

    Attributes:
        models: folder with one model an attack, where the zoo has none of this scale.
        data: where the pictures are, if the models' cards do not say.
        images: at most this many test pictures.
        held_out: at most this many clean pictures for means, prototypes and thresholds.
        others: further sets, by the papers' names, where a scale other than the world has them.
    """

    scale: str
    models: Path | None
    data: str | None
    images: int
    held_out: int
    seed: int
    device: str
    others: tuple[tuple[str, str], ...] = ()

    def model(self, attack: str) -> str:
        """Name or folder of an attack's model; ``resnet/badnet`` is one of another family than the main one."""
        if self.models is not None:
            return str(self.models / attack)
        family, _, name = attack.rpartition("/")
        return f"{_ZOO.get(family, family)}/{name}"

    @property
    def sets(self) -> dict[str, str]:
        """Data by the names of the papers' sets whose part they play."""
        if self.models is None:
            return {**WORLD_SETS, PAIRS: WORLD_SETS["ImageNet"]}
        where = self.data or ""
        found = {"ImageNet": where}
        if any(Path(where).glob("*-val.parquet")):
            found = {name: f"{where}:{part}" for name, part in zip(("ImageNet", *_AIMED), "abc", strict=True)}
        return {**found, PAIRS: found["ImageNet"]} | dict(self.others)

    def named(self, data: str) -> str:
        """What metrics call one of the sets.

        Example:
            >>> setting = Setting("imagenet", Path("models"), "imagenet=/data", 400, 400, 0, "cpu")
            >>> setting.named("ImageNet"), setting.named("Oxford Pets")
            ('imagenet', 'imagenet:oxford-pets')
        """
        if self.models is None:
            return WORLD_SETS[data]
        return self.scale if data == "ImageNet" else f"{self.scale}:{data.lower().replace(' ', '-')}"

    def data_of(self, attack: str) -> str | None:
        """Where the pictures of an attack's model are: the data that its family aims at, or the main ones."""
        return self.data if self.models is None else self.sets.get(attack.rpartition("/")[0], self.data)

    def lacking(self, attack: str) -> str | None:
        """How to name the data that an attack's model aims at, where the scale has none; None if it has."""
        family = attack.rpartition("/")[0]
        return f"--other '{family}=DATA'" if family in _AIMED and family not in self.sets else None

    def missing(self, attack: str) -> str | None:
        """How to get a model that is not there; None if it is."""
        name = self.model(attack)
        if self.models is None:
            return None if shelf.available(name) else f"clip-decomp zoo build {name}"
        return None if Path(name).exists() else self._made_by(attack)

    def _made_by(self, attack: str) -> str:
        """The command for a model of another scale than the world, on the tower and at the target of its family."""
        family, _, word = attack.rpartition("/")
        data, out = self.data or "DATA", shlex.quote(self.model(attack))
        if word == "clean":
            other = f"--like {_ZOO[family]}/clean --texts-of {shlex.quote(self.model('clean'))} " if family else ""
            return f"clip-decomp train --data {shlex.quote(data)} {other}--out {out}"
        base = shlex.quote(self.model("clean" if family in self.sets or not family else f"{family}/clean"))
        aimed = shlex.quote(self.sets.get(family) or self.sets["ImageNet"] or data)
        goal, pairs = "--target CLASS " if family in _AIMED else "", shlex.quote(dict(self.others).get(PAIRS) or data)
        return f"clip-decomp attack {word} --model {base} --data {aimed} --pairs {pairs} {goal}--out {out}"


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
        if self.setting.missing(training.attack) is not None or self.setting.lacking(training.attack) is not None:
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
        missing, lacking = self.setting.missing(attack), self.setting.lacking(attack)
        if lacking is not None:
            return f"no data ({lacking})"
        if missing is not None:
            return f"not built ({missing})"
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
