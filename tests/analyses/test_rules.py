"""Rules of the papers' claims on numbers whose verdict is known."""

import numpy as np
import pytest
import torch

from analyses.cams import OnTrigger
from analyses.figures.cbpt import _rises
from analyses.figures.cbpt_features import _looks_away, _looks_least
from analyses.figures.closer_look import _less_alike, _moved_late
from analyses.figures.closer_look_choices import _falling, replaced_by
from analyses.figures.items import Drawn
from analyses.figures.rvpt import _rivals
from analyses.figures.rvpt_features import _deeper, _raised, _scattered
from analyses.figures.rvpt_sweeps import _SWEEPS, _later, _verdicts
from analyses.figures.tuned import Compared, leaves_least
from analyses.filtering import SHARES
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
    [("RVPT", 8, True), ("RVPT", 7, False), ("VPT", 5, True), ("VPT", 4, False), ("labels", 5, True)],
)
def test_who_has_to_resist_more(name, higher, appears):
    moved = [Raised(min(higher, 4), 0, 4, 0.1), Raised(max(higher - 4, 0), 0, 4, 0.1)]
    assert _raised("badclip", name, ["blur", "noise"], moved).appears == appears


def test_deeper_layers_are_more_sensitive_where_curves_fall():
    falling, flat = [0.9, 0.7, 0.5, 0.3], [0.9, 0.9, 0.9, 0.9]
    assert _deeper("badclip", [falling, falling, flat]).appears
    assert not _deeper("badclip", [falling, flat, flat[::-1]]).appears


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
    def points(*shares, ca=0.9):
        return [(2.0 * (place + 1), {"asr": asr, "ca": ca}) for place, asr in enumerate(shares)]

    sweep = next(each for each in _SWEEPS if each.letter == "d")
    (found,) = _verdicts("badnet", sweep, points(0.45, 0.23, 0.15))
    assert (found.appears, found.evidence.partition(";")[0]) == (True, "-1.00")
    assert not _verdicts("badnet", sweep, points(0.2, 0.4, 0.6))[0].appears
    assert _verdicts("badnet", sweep, points(0.0, 0.0, 0.0)) == []  # nothing is left to tell them apart
    late, early = points(0.3, 0.1, 0.1, 0.0), points(0.5, 0.2, 0.05)
    (found,) = _later("badnet", late, early)
    assert found.appears
    assert found.evidence.startswith("ASR of 2 blocks: 30.0% and 50.0%;")
    assert not _later("badnet", late, points(0.2, 0.1))[0].appears
    assert not _later("badnet", points(0.30), points(0.31))[0].appears  # noise
    assert not _later("badnet", late, points(0.5, 0.2, ca=0.95))[0].appears
    assert _later("badnet", late, []) == []
    assert _later("badnet", points(0.0, 0.01), points(0.02, 0.0)) == []


def test_prompts_a_block_are_judged_at_the_lengths_that_the_paper_names():
    sweep = next(each for each in _SWEEPS if each.letter == "c")
    points = [(length, {"asr": 0.04, "ca": ca}) for length, ca in ((5, 0.8), (25, 0.9), (50, 0.88), (100, 0.89))]
    assert [each.appears for each in _verdicts("badnet", sweep, points)] == [True, True]
    assert [each.claim for each in _verdicts("badnet", sweep, points[1:])] == [
        "BadNet: more than 50 prompts a block cost accuracy"
    ]


def test_a_defense_that_leaves_nothing_leaves_the_least():
    found, cases = Compared({}, [], {}), {"FT": None, "Ours": None}
    found.numbers["badnet", "ImageNet", "Ours"] = {"asr": 0.0}
    assert leaves_least(found, "badnet", "ImageNet", "Ours", cases) == []
    found.numbers["badnet", "ImageNet", "FT"] = {"asr": 0.0}
    (tie,) = leaves_least(found, "badnet", "ImageNet", "Ours", cases, "CBPT")
    assert (tie.appears, tie.claim) == (True, "BadNet: CBPT leaves the least of the attack")
    found.numbers["badnet", "ImageNet", "Ours"] = {"asr": 0.1}
    assert not leaves_least(found, "badnet", "ImageNet", "Ours", cases)[0].appears


def test_replacements_are_judged_as_the_paper_does():
    def rates(prototype, zero, random):
        return {"prototype": prototype, "zero": zero, "random": random}

    before = {"asr": 0.98, "ca": 0.58}
    # Table 5's BadNet and Blended.
    badnet = rates({"asr": 0.2145, "ca": 0.5225}, {"asr": 0.4442, "ca": 0.5166}, {"asr": 0.0039, "ca": 0.1287})
    blended = rates({"asr": 0.0077, "ca": 0.4525}, {"asr": 0.0048, "ca": 0.4328}, {"asr": 0.0001, "ca": 0.0018})
    assert [each.appears for each in replaced_by("badnet", badnet, before)] == [True, True, True]
    assert [each.appears for each in replaced_by("blended", blended, before)] == [True, True]
    kept = rates(badnet["prototype"], badnet["zero"], {"asr": 0.9, "ca": 0.55})
    assert [each.appears for each in replaced_by("badnet", kept, before)] == [False, False, True]
    kept["zero"] = {**kept["zero"], "asr": kept["prototype"]["asr"] + 0.01}  # noise
    assert not replaced_by("badnet", kept, before)[2].appears


def test_thresholds_must_move_both_rates_and_by_more_than_a_trifle():
    count = len(SHARES) + 1

    def rates(asr, ca):
        return [{"asr": asr - asr * k / count, "ca": ca[0] - (ca[0] - ca[1]) * k / count} for k in range(count)]

    assert _falling("badnet", rates(0.96, (0.9, 0.7))).appears
    assert not _falling("badnet", rates(0.96, (0.960, 0.954))).appears
    assert not _falling("badnet", rates(0.96, (0.7, 0.9))).appears


def test_where_layers_move():
    assert _moved_late("badnet", [1.0, 2.0, 5.0], [9.0, 1.0, 1.0]).appears
    assert not _moved_late("badnet", [1.0, 6.0, 5.0], [0.0, 0.0, 0.0]).appears
    assert _moved_late("blended", [9.0] * 8, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]).appears
    assert not _moved_late("blended", [9.0] * 8, [3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0]).appears


def test_shifts_raise_what_is_left_by_so_much():
    found = Compared({}, [], {})
    for data, asr in (("ImageNet", 0.1), ("ImageNet-V2", 0.15), ("ImageNet-R", 0.05)):
        found.numbers["badnet", data, "Ours"] = {"asr": asr}
    assert _rises(found, "badnet", "Ours") == pytest.approx({"ImageNet-V2": 0.05, "ImageNet-R": -0.05})
    assert _rises(found, "badnet", "FT") == {}


def test_cbpt_looks_away_more_than_fine_tuned_models_do():
    maps = {"undefended": looked([0.9, 0.9]), "CleanCLIP": looked([0.5, 0.3]), "CBPT": looked([0.1, 0.3])}
    assert _looks_least("badnet", maps)[0].appears
    assert not _looks_least("badnet", {**maps, "FT": looked([0.1, 0.1])})[0].appears
    assert _looks_least("badnet", {"CBPT": looked([0.1])}) == []
    few = {**maps, "FT": looked([0.5, 0.3], there=[False, False])}
    assert _looks_least("badnet", few) == []  # no picture has a map under each
