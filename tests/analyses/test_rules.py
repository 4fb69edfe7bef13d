"""Rules of the papers' claims on numbers whose verdict is known."""

import numpy as np
import pytest
import torch

from analyses.cams import OnTrigger
from analyses.figures.cbpt_features import _looks_away
from analyses.figures.closer_look import _less_alike
from analyses.figures.items import Drawn
from analyses.figures.rvpt import _rivals
from analyses.figures.rvpt_features import _raised, _scattered
from analyses.figures.rvpt_sweeps import _SWEEPS, _later, _verdicts
from analyses.figures.tuned import Compared
from analyses.repelling import Raised
from clip_decomp.methods.embedding import EmbeddingNumbers


def looked(share, chance=0.1, there=None):
    there = torch.ones(len(share), dtype=torch.bool) if there is None else torch.tensor(there)
    share = torch.tensor(share)[there]
    return OnTrigger(share, torch.full_like(share, chance), there)


def test_maps_are_compared_of_pictures_that_have_one_both_times():
    (found,) = _looks_away("badnet", looked([0.9, 0.1, 0.9]), looked([0.0, 0.3, 0.2], there=[False, True, True]))
    assert (found.appears, found.evidence) == (True, "50.0% to 25.0% of 2 pictures")
    (found,) = _looks_away("badnet", looked([0.2, 0.2]), looked([0.3, 0.2]))
    assert not found.appears


def test_nothing_is_decided_where_maps_cannot_tell():
    covered = looked([1.0, 1.0], chance=1.0)
    assert _looks_away("badclip", covered, covered) == []
    few = looked([0.9, 0.1, 0.1], there=[True, False, False])
    assert _looks_away("badnet", looked([0.9, 0.9, 0.9]), few) == []


@pytest.mark.parametrize(
    ("name", "higher", "appears"),
    [("RVPT", 8, True), ("RVPT", 7, False), ("VPT", 1, True), ("VPT", 4, False), ("labels only", 5, True)],
)
def test_who_has_to_resist_more(name, higher, appears):
    moved = [Raised(min(higher, 4), 0, 4, 0.1), Raised(max(higher - 4, 0), 0, 4, 0.1)]
    assert _raised("badclip", name, ["blur", "noise"], moved).appears == appears


def test_vpt_keeps_the_cluster_that_rvpt_breaks():
    def numbers(silhouette, distance):
        names = EmbeddingNumbers.__dataclass_fields__
        return EmbeddingNumbers(
            **{**dict.fromkeys(names, 0.0), "triggered_silhouette": silhouette, "partner_mean": distance}
        )

    both = {"undefended": numbers(0.8, 1.0), "VPT": numbers(0.7, 0.9), "RVPT": numbers(0.2, 0.3)}
    assert _scattered("badclip", "VPT", both).appears
    assert "stay a cluster" in _scattered("badclip", "VPT", both).claim
    assert _scattered("badclip", "RVPT", both).appears
    assert not _scattered("badclip", "VPT", {**both, "VPT": numbers(0.2, 0.3)}).appears


@pytest.mark.parametrize(("attack", "word"), [("badnet", "one shot is"), ("badclip", "8 shots are")])
def test_how_many_shots_are_enough(attack, word):
    shots = next(sweep for sweep in _SWEEPS if sweep.letter == "a")
    points = [(value, {"asr": 0.04 if value >= 8 else 0.3, "ca": 0.9}) for value in shots.values]
    (found,) = _verdicts(attack, shots, points)
    assert word in found.claim
    assert found.appears == (attack == "badclip")


def test_depths_from_either_side_are_two_cases():
    names = [sweep.case(value) for sweep in _SWEEPS for value in sweep.values]
    assert {"depth=2", "depth from input=2"} <= set(names)
    assert len(names) == len(set(names))


def test_rvpt_is_no_rival_of_itself():
    found = Compared({}, [], {})
    found.numbers["badnet", "ImageNet", "RVPT"] = {"pa": 0.4, "asr": 0.1}
    assert _rivals(found, "badnet", "ImageNet", "pa") == {}
    found.numbers["badnet", "ImageNet", "CleanCLIP"] = {"pa": 0.3, "asr": 0.2}
    assert _rivals(found, "badnet", "ImageNet", "pa") == {"CleanCLIP": 0.3}


def test_models_of_other_towers_have_rows_of_their_own():
    drawn = Drawn("")
    for attack in ("badnet", "patch-16/badnet", "Caltech-101/badnet"):
        drawn.put(attack, "RVPT", "ImageNet", asr=0.5)
    assert [each.attack for each in drawn.measured] == ["BadNet", "BadNet, patches of 16 pixels", "BadNet"]


def test_heads_are_taken_away_from_their_prototypes():
    clean = np.linspace(0.4, 0.6, 101)[:, None].repeat(4, axis=1)
    moved = clean - np.array([0.2, 0.06, 0.04, 0.0])  # the lower quartile is 0.05 below the median
    assert _less_alike("badnet", clean, moved).evidence == "2 of 4 heads"
    assert _less_alike("badnet", clean, moved).appears
    assert not _less_alike("badnet", clean, clean - np.array([0.2, 0.0, 0.0, 0.0])).appears
    assert not _less_alike("badnet", clean, clean + 0.2).appears


def test_depth_counts_where_it_lowers_the_asr_and_late_blocks_where_they_lower_it_more():
    sweep = next(each for each in _SWEEPS if each.letter == "d")
    falling = [(depth, {"asr": 0.9 / depth, "ca": 0.9}) for depth in (2, 4, 6)]
    (found,) = _verdicts("badnet", sweep, falling)
    assert (found.appears, found.evidence.partition(";")[0]) == (True, "-1.00")
    (found,) = _verdicts("badnet", sweep, [(depth, {"asr": depth / 10, "ca": 0.9}) for depth in (2, 4, 6)])
    assert not found.appears
    late, early = {2: 0.3, 4: 0.1, 6: 0.1, 8: 0.0}, {2: 0.5, 4: 0.2, 6: 0.15}
    (found,) = _later("badnet", late, early)
    assert found.appears
    assert found.evidence.startswith("ASR of 2 blocks: 30.0% and 50.0%;")
    assert not _later("badnet", late, {2: 0.2, 4: 0.2})[0].appears
    assert _later("badnet", late, {}) == []
