"""What all figures of a run are drawn from: models and data by the papers' names, and how to get what is not there.

Example:
    >>> Setting("world", None, None, 400, 400, 0, "cpu").model("resnet/badnet")
    'world-resnet/badnet'
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from clip_decomp.zoo import shelf

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

    def absent(self, attack: str) -> str | None:
        """Why there is nothing to tune or to measure: no data that a model aims at, or no model; None if both are."""
        lacking, missing = self.lacking(attack), self.missing(attack)
        if lacking is not None:
            return f"no data ({lacking})"
        return None if missing is None else f"not built ({missing})"
