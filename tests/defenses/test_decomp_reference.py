"""Decomp-Rep and Decomp-Det against the public reference code's numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from defenses.decomp_rep import repair_change
from defenses.selection import HeadSelector

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "ablation.safetensors")
    expected = json.loads((GOLDEN / "ablation.json").read_text())
    selector = HeadSelector((2,), tensors["val.heads"][-1:], expected["threshold"], "dot")
    return tensors, expected, selector


def percent(text: str, name: str) -> float:
    return float(text.split(f"{name}=")[1].split(",")[0].split(" ")[0])


def representation(tensors, side):
    return sum(tensors[f"{side}.{part}"].sum(1) for part in ("early", "last", "mlps"))


def repaired(tensors, side, selector, replacement):
    total, last = representation(tensors, side), tensors[f"{side}.last"][:, None]
    target = selector.prototypes if replacement == "prototype" else torch.zeros_like(selector.prototypes)
    change = repair_change(last, selector.select(last), target)
    return ((total + change) @ tensors["classifier"]).argmax(1)


@pytest.mark.parametrize(("replacement", "line"), [("prototype", "mean_ablate"), ("zero", "zero_value_ablate")])
def test_repair_agrees_with_the_reference_code(golden, replacement, line):
    tensors, expected, selector = golden
    clean = repaired(tensors, "clean", selector, replacement)
    triggered = repaired(tensors, "triggered", selector, replacement)
    labels = tensors["labels"]
    assert 100 * (triggered == expected["target"]).float().mean() == pytest.approx(
        percent(expected[line], "asr"), abs=1e-3
    )
    assert 100 * (clean == labels).float().mean() == pytest.approx(percent(expected[line], "acc"), abs=1e-3)
    assert 100 * (triggered == labels).float().mean() == pytest.approx(percent(expected[line], "acc2"), abs=1e-3)


def test_detection_agrees_with_the_reference_code(golden):
    tensors, expected, selector = golden
    scores = [selector.select(tensors[f"{side}.last"][:, None]).sum((1, 2)) for side in ("triggered", "clean")]
    truth = [1] * len(scores[0]) + [0] * len(scores[1])
    area = roc_auc_score(truth, torch.cat(scores))
    assert area == pytest.approx(float(expected["detect"].split(":")[1].rstrip(".")), abs=1e-6)


def test_reverse_poisoning_agrees_with_the_reference_code(golden):
    tensors, expected, selector = golden
    bad, clean = tensors["triggered.last"][:, None], tensors["clean.last"][:, None]
    total = representation(tensors, "clean")
    change = ((bad - clean) * selector.select(bad)[..., None]).sum((1, 2))
    guesses = ((total + change) @ tensors["classifier"]).argmax(1)
    asr = 100 * (guesses == expected["target"]).float().mean()
    assert asr == pytest.approx(percent(expected["reverse"], "asr"), abs=1e-3)
