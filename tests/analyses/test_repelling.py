from __future__ import annotations

import torch

from analyses.repelling import compare, raised
from clip_decomp.attacks.triggers import make_trigger
from clip_decomp.methods.resistivity import Resistivity


def flat(value: float, std: float, count: int = 100) -> Resistivity:
    layers = (-1, 0, 1, 2)
    return Resistivity("x", layers, (value,) * 4, (std,) * 4, (1.0,) * 4, (0.0,) * 4, value, std, count)


def test_raised_counts_the_layers_beyond_chance_from_the_first_prompted_on():
    before = flat(0.5, 0.1)
    found = raised(before, flat(0.6, 0.1), first=1)
    assert (found.higher, found.lower, found.layers) == (2, 0, 2)
    assert abs(found.change - 0.1) < 1e-12
    assert raised(before, flat(0.4, 0.1), first=0).lower == 3
    # 1.96 standard errors of the difference are 0.0277
    assert raised(before, flat(0.52, 0.1), first=0).higher == 0
    assert raised(before, flat(0.53, 0.1), first=0).higher == 3


def test_compare_measures_all_models_under_the_same_perturbations(model, toy):
    found = compare({"a": model, "b": model}, toy, ("badnet", make_trigger("badnet")))
    assert list(found)[-1] == "trigger: badnet"
    assert len(found) == 5
    for panel in found.values():
        assert panel["a"] == panel["b"]
        assert torch.tensor(panel["a"].class_token).le(1).all()
