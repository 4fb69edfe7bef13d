"""One backdoored model, read from end to end.

Check that the attack took, decompose clean and triggered pictures, sweep, look at every head, repair, detect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.ablation import AblationResult, HeadAblation, activation_means, direct_sweeps, head_ablation
from clip_decomp.ablation.total import total_ablation
from clip_decomp.cli.run import Subject
from clip_decomp.contributions import collect, pictures
from clip_decomp.errors import SettingError
from clip_decomp.evaluation import Evaluation, evaluate, require_attack
from clip_decomp.results import prefix
from clip_decomp.zeroshot import sided_vectors
from defenses import DecompDet, DecompRep, DecompRepTotal
from defenses.detection import Detection, detect

from .findings import Finding, decide

#: Pictures for the slower questions: total effects, and densities of similarity.
FEW = 200


@dataclass(frozen=True)
class Reading:
    """Everything the demo found about one model."""

    subject: Subject
    undefended: Evaluation
    direct: list[AblationResult]
    total: list[AblationResult]
    heads: HeadAblation
    findings: list[Finding]
    repaired: dict[str, Evaluation]
    detected: dict[str, Detection]
    similarity: dict[str, Float[Tensor, "image head"]]

    def metrics(self) -> dict[str, float]:
        """All numbers, named as in ``results.json``."""
        name, attack = self.subject.data.test.name, self.subject.attack
        plain = prefix(name, attack, "none")
        found = self.undefended.metrics(plain)
        for sweep in (*self.direct, *self.total):
            found |= sweep.metrics(plain)
        for finding in self.findings:
            found[f"{plain}/finding-{finding.number}"] = float(finding.appears)
            found |= {f"{plain}/{key}": value for key, value in finding.metrics.items()}
        for settings, evaluation in self.repaired.items():
            measured = evaluation.metrics(prefix(name, attack, "decomp-rep"))
            found |= {f"{key};{settings}": value for key, value in measured.items()}
        for score, detection in self.detected.items():
            measured = detection.metrics(prefix(name, attack, "decomp-det"))
            found |= {f"{key};score={score}": value for key, value in measured.items()}
        return found


def read(subject: Subject, seed: int, step: Callable[[str], None]) -> Reading:
    """Read one backdoored model; ``step(text)`` is called before each part.

    Raises:
        AttackFailed: the attack did not take.
    """
    model, test, held_out = subject.model, subject.data.test, subject.data.held_out
    trigger, target = subject.trigger, subject.target
    if trigger is None or target is None:
        raise SettingError(f"{model.name} carries no attack on its card: the demo needs a backdoored model.")
    step("evaluate")
    undefended = evaluate(model, test, trigger, target)
    require_attack(undefended)
    step("decompose")
    goal, vectors = test.class_index(target), sided_vectors(model, test, trigger)
    means = collect(model, held_out).means()
    clean, triggered = collect(model, test), collect(model, test, trigger)
    step("ablate")
    direct = direct_sweeps(clean, triggered, means, vectors, goal)
    heads = head_ablation(clean, triggered, means, vectors, goal)
    step("total effects")
    patches = activation_means(model, held_out.first(FEW))
    few = test.first(FEW)
    total = [
        total_ablation(model, few, trigger, patches, vectors, goal, over, "separate") for over in ("heads", "mlps")
    ]
    step("repair")
    repairs = {
        "components=heads;effect=direct": DecompRep("heads"),
        "components=mlps;effect=direct": DecompRep("mlps"),
        "components=heads;effect=total": DecompRepTotal(),
    }
    repaired = {
        name: evaluate(defense.fit(model, held_out), test, trigger, target) for name, defense in repairs.items()
    }
    step("detect")
    detectors = {score: DecompDet(score).fit(model, held_out) for score in ("count", "distance")}
    detected = {score: detect(each, model, test, trigger, target, seed) for score, each in detectors.items()}
    similarity = {
        name: torch.cat([detectors["count"].similarity(model.normalize(p))[:, 0] for p, _, _ in pictures(few, each)])
        for name, each in (("clean", None), ("triggered", trigger))
    }
    findings = decide(direct, subject.attack)
    return Reading(subject, undefended, direct, total, heads, findings, repaired, detected, similarity)
