"""``guard calibrate`` and ``guard serve``: what they write, what they refuse, and a real server under attack."""

import json

import pytest

from defenses.conformal import false_positive_spread
from defenses.guard import Guard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="module")
def calibrated(folder):
    import clip_decomp
    from clip_decomp.data import open_data

    model = clip_decomp.load("world/clean")
    Guard.calibrate(model, open_data("world", 64).held_out.first(60)).save(folder)
    return folder


def test_calibrate_writes_a_guard_and_what_to_expect_of_it(call, tmp_path):
    arguments = ("--model", "world/clean", "--count", 80, "--false-positive-rate", 0.1, "--mode", "flag", "--json")
    code, out, _ = call("guard", "calibrate", *arguments, "--out", tmp_path)
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert (found["counts"]["images"], found["counts"]["calibration"]) == (80, 40)
    mean, spread = false_positive_spread(40, 0.1)
    assert found["metrics"]["world/clean/guard/false-positive-rate"] == pytest.approx(mean, abs=1e-6)
    assert found["metrics"]["world/clean/guard/false-positive-rate/std"] == pytest.approx(spread, abs=1e-6)
    import clip_decomp

    guard = Guard.load(tmp_path, clip_decomp.load("world/clean"))
    assert (guard.mode, guard.false_positive_rate) == ("flag", 0.1)
    above = guard.reference > found["settings"]["threshold"]
    assert 1 + int(above.sum()) == 4  # the 4 of p = 4 / 41: one more would be over 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "--model", "world/clean", "--count", "20"), ["38", "20"]),
        (("calibrate", "--model", "world/clean", "--count", "40", "--mode", "ban"), ["ban", "repair"]),
        (("calibrate", "--model", "world/clean", "--false-positive-rate", "2"), ["2", "between 0 and 1"]),
        (("serve", "--model", "world/badnet", "--guard", "{guard}"), ["another image tower", "world/clean"]),
        (("serve", "--model", "world/clean", "--guard", "no/such"), ["no/such"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--template", "a photo"), ["a photo", "{}"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--classes", "no.txt"), ["no.txt"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--max-bytes", "0"), ["bytes is 0"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--body-timeout", "40"), ["40", "30"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--port", "80"), ["80", "1024"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--host", "example.org"), ["example.org"]),
        (("serve", "--model", "world/clean", "--guard", "{guard}", "--workers", "0"), ["0"]),
    ],
)
def test_bad_settings_are_one_line_that_says_what_to_do(call, tmp_path, calibrated, arguments, words):
    filled = [each.format(guard=calibrated) if "{guard}" in each else each for each in arguments]
    code, _, err = call("guard", *filled, *(("--out", tmp_path) if "calibrate" in arguments else ()))
    assert code == 1
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_without_the_extra_it_is_named(monkeypatch, call, calibrated):
    monkeypatch.setattr("defenses.commands.guard.find_spec", lambda name: None)
    code, _, err = call("guard", "serve", "--model", "world/clean", "--guard", calibrated)
    assert code == 1
    assert "litserve" in err
    assert "pip install litserve" in err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_server_answers_every_good_request_while_others_are_hostile(call, tmp_path):
    code, out, err = call("bench", "guard-server", "--json", "--out", tmp_path)
    assert code == 0, err
    found = json.loads(out)
    assert (found["counts"]["requests"], found["counts"]["good"], found["counts"]["wrong"]) == (2000, 1800, 0)
    start = "world/clean/guard/server-megabytes;after="
    assert found["metrics"][f"{start}1"] < 1.05 * found["metrics"][f"{start}0.25"] + 20
