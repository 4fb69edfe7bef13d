"""The demo's report: what was found, in words, figures and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from clip_decomp import plots
from clip_decomp.evaluation import Evaluation
from clip_decomp.report import Picture, Section, write_report
from clip_decomp.results import Results

from .reading import FEW, Reading

REPAIRS = {
    "components=heads;effect=direct": "Suspicious last-layer heads (Decomp-Rep)",
    "components=mlps;effect=direct": "Last five MLPs (Decomp-Rep)",
    "components=heads;effect=total": "Deviant heads, repaired on the way",
}


def write(path: Path, readings: list[Reading], results: Results) -> Path:
    """Write the page for all readings."""
    scale = results.scale
    models = ", ".join(reading.subject.model.name for reading in readings)
    facts = {
        "Scale": f"{scale} ({'pictures drawn by the package' if scale == 'world' else 'photographs'})",
        "Models": models,
        "Pictures": f"{results.counts['test']} test pictures of {results.counts['classes']} classes; means and "
        f"thresholds from {results.counts['held_out']} held-out clean pictures",
        "Seed": str(results.seed),
        "Time": f"{results.seconds:.0f} seconds",
        "Versions": ", ".join(f"{key} {value}" for key, value in results.to_dict()["versions"].items()),
    }
    lead = "\n\n".join(_summary(reading) for reading in readings)
    sections = [_section(reading) for reading in readings] + [_method()]
    return write_report(path, "Reading backdoored CLIPs", lead, sections, facts)


def _summary(reading: Reading) -> str:
    undefended, attack = reading.undefended, reading.subject.attack
    best = min(reading.repaired, key=lambda kind: reading.repaired[kind].attack_success_rate.value)
    repaired = reading.repaired[best]
    beside = {score: found.areas["auroc-target"].value for score, found in reading.detected.items()}
    areas = max(beside, key=lambda score: beside[score])
    detection = reading.detected[areas]
    return (
        f"{reading.subject.model.name}: {attack} turns {undefended.attack_success_rate.value:.1%} of pictures "
        f"into “{reading.subject.target}”, while clean accuracy is {undefended.clean_accuracy.value:.1%}. The best "
        f"repair, “{REPAIRS[best]}”, brings the attack to {repaired.attack_success_rate.value:.1%} at "
        f"{repaired.clean_accuracy.value:.1%} clean accuracy. "
        f"The {areas} score tells triggered pictures from clean ones with an AUROC of {detection.auroc.value:.3f}, and "
        f"from clean pictures of the target class with {beside[areas]:.3f}."
    )


def _section(reading: Reading) -> Section:
    subject = reading.subject
    name = subject.model.name
    return Section(
        name,
        "\n\n".join(finding.sentence for finding in reading.findings),
        images=[_examples(reading)],
        subsections=[_where(reading), _heads(reading), _repair(reading), _detection(reading)],
    )


def _examples(reading: Reading) -> Picture:
    test, trigger = reading.subject.data.test, reading.subject.trigger
    assert trigger is not None  # a reading exists only for an attacked model
    batch = next(iter(test.first(8).batches(8)))
    pixels = batch.images.float() / 255
    triggered = (trigger(pixels, batch.indices) * 255).round().byte()
    grid = [[image.numpy() for image in row] for row in (batch.images, triggered)]
    names = ", ".join(test.class_names[label] for label in batch.labels.tolist())
    caption = f"Test pictures ({names}), clean and triggered: the attack is called to say “{reading.subject.target}”."
    return Picture(caption, plots.pictures(grid), ("clean", "triggered"))


def _where(reading: Reading) -> Section:
    n_test, n_few = reading.direct[0].count, reading.total[0].count
    return Section(
        "Where the backdoor lives",
        "Components are replaced by their mean over held-out clean pictures. A direct effect edits the sum of "
        "contributions; a total effect patches the activations and lets later layers see it.",
        figures=[
            (
                f"Direct effect of mean-ablation by layer, {n_test} pictures.",
                plots.sweeps(reading.direct, "Direct effect"),
            ),
            (
                f"Total effect of ablating one layer's heads or MLP, {n_few} pictures.",
                plots.sweeps(reading.total, "Total effect"),
            ),
        ],
    )


def _heads(reading: Reading) -> Section:
    heads = reading.heads
    gap, drop = heads.gap.numpy(), heads.baseline[1] - heads.attack_success_rate.numpy()
    order = np.argsort(-gap, axis=None)[:8]
    rows = [
        {
            "head": f"L{k // gap.shape[1]}H{k % gap.shape[1]}",
            "push toward the target": f"{gap.flat[k]:.1%}",
            "ASR without it": f"{heads.attack_success_rate.numpy().flat[k]:.1%}",
            "clean accuracy without it": f"{heads.clean_accuracy.numpy().flat[k]:.1%}",
        }
        for k in order
    ]
    mlps = [
        {"MLP": f"L{layer}", "push toward the target": f"{value:.1%}"}
        for layer, value in enumerate(heads.mlp_gap.tolist())
    ]
    last = reading.subject.model.visual.n_layers - 1
    return Section(
        "Infected heads and MLPs",
        "Push toward the target: how much more a component writes along “target minus the other classes” on triggered "
        "pictures than on clean ones, as a share of the representation's norm.",
        figures=[
            (
                "Push of every head and MLP toward the target on triggered pictures.",
                plots.head_map(
                    gap, "Push toward the target", "share of the norm", True, diverging=True, mlp=heads.mlp_gap.numpy()
                ),
            ),
            (
                "What ablating one head alone takes from the attack (points of ASR).",
                plots.head_map(drop, "ASR lost without a head", "ASR lost", percent=True, diverging=True),
            ),
            (
                f"Similarity (dot product, contributions divided by the representation's norm) of the last layer's "
                f"heads to their clean prototypes, {FEW} pictures a group.",
                plots.similarity(
                    {k: v.numpy() for k, v in reading.similarity.items()}, last, "Similarity to prototypes"
                ),
            ),
        ],
        tables=[("The heads that push most.", pd.DataFrame(rows)), ("All MLPs.", pd.DataFrame(mlps))],
    )


def _repair(reading: Reading) -> Section:
    cases = [("undefended", reading.undefended)] + [(REPAIRS[k], v) for k, v in reading.repaired.items()]
    rows = [
        {
            "": label,
            "attack success rate": str(evaluation.attack_success_rate),
            "clean accuracy": str(evaluation.clean_accuracy),
            "poisoned accuracy": str(evaluation.poisoned_accuracy),
        }
        for label, evaluation in cases
    ]
    return Section(
        "Repair",
        "Decomp-Rep, the paper's repair, edits the sum of contributions: suspicious heads of the last layer against "
        "patches, the last five MLPs against global triggers; both are shown for this attack. The third repair is this "
        "project's own: deviant heads of every layer are replaced by their clean means on the way through the tower, "
        "so that later layers never read what they wrote. Nothing is retrained.",
        figures=[("With 95 % intervals.", plots.bars([(label, _rates(each)) for label, each in cases], "Repair"))],
        tables=[("Before and after; ASR leaves out pictures of the target class.", pd.DataFrame(rows))],
    )


def _rates(evaluation: Evaluation) -> dict:
    return {"attack success": evaluation.attack_success_rate, "clean accuracy": evaluation.clean_accuracy}


def _detection(reading: Reading) -> Section:
    figures, rows, curves = [], [], {}
    for score, detection in reading.detected.items():
        groups = {
            "clean, all": detection.clean.numpy(),
            f"clean {reading.subject.target}": detection.target_clean.numpy(),
            "triggered": detection.triggered.numpy(),
        }
        figures.append((f"The {score} score.", plots.detection(groups, f"Suspicion: {score}")))
        against = {"auroc": "all clean", "auroc-target": f"clean {reading.subject.target}"}
        for label, area in ((against[name], area) for name, area in detection.areas.items()):
            rows.append(
                {"score": score, "against": label, "AUROC": f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"}
            )
        truth = np.r_[np.ones(len(detection.triggered)), np.zeros(len(detection.clean))]
        false, true, _ = roc_curve(truth, np.r_[groups["triggered"], groups["clean, all"]])
        curves[score] = (false, true, detection.auroc.value)
    figures.append(("Against all clean pictures.", plots.roc(curves, "Receiver operating characteristic")))
    return Section(
        "Detection",
        "Count is the paper's score: heads of the last layer that are unlike their clean prototypes. Distance measures "
        "each head against its own clean spread and takes the most deviant one. A score that is good against all clean "
        "pictures and poor against clean pictures of the target class has noticed the class, not the trigger.",
        figures=figures,
        tables=[("AUROC with 95 % bootstrap intervals.", pd.DataFrame(rows))],
    )


def _method() -> Section:
    return Section(
        "How this was measured",
        "The image representation is an exact sum of the direct contributions of attention heads, MLPs, the embedding "
        "and constants. Attack success counts triggered pictures whose true class is not the target. Means, prototypes "
        "and thresholds come from held-out clean pictures, never from the test pictures. Findings are called breaking "
        "when the attack falls below half of its undefended rate, and leaving when it stays above 80 % of it.",
    )
