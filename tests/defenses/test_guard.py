"""The guard: what it flags, its modes, its evidence, its files, and what it refuses."""

import gc
import json
import math
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip_decomp
from clip_decomp.decompose import observe
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_block import Record
from clip_decomp.training.architecture import Architecture, build
from defenses import DecompRepTotal, Guard
from defenses.deviation import Deviation, observe_clean

from .tiny import hooked, noise, strange


@pytest.fixture(scope="module")
def model():
    return hooked(1)


@pytest.fixture(scope="module")
def guard(model):
    return Guard.calibrate(model, noise(300), mode="flag")


def test_it_flags_what_is_strange_and_leaves_features_alone(guard, model):
    images = torch.cat([noise(100, 1), strange(20)])
    verdict = guard(images)
    with torch.no_grad():
        assert torch.allclose(verdict.features, model.encode_image(images), atol=1e-5)
    assert verdict.flagged[100:].float().mean() > 0.9
    assert verdict.flagged[:100].float().mean() < 0.15
    assert torch.equal(verdict.flagged, verdict.p_values <= 0.05)
    assert verdict.deviations.heads.shape == (120, 3, 4)
    assert verdict.deviations.mlps.shape == (120, 3)


def test_modes_differ_in_flagged_images_alone(model):
    images = torch.cat([noise(30, 1), strange(10)])
    with torch.no_grad():
        plain = model.encode_image(images)
    for mode in ("flag", "reject", "repair"):
        guard = Guard.calibrate(model, noise(300), mode=mode)
        verdict = guard(images)
        flagged = verdict.flagged
        assert 0 < flagged.sum() < 40
        assert torch.allclose(verdict.features[~flagged], plain[~flagged], atol=1e-5)
        if mode == "flag":
            assert torch.allclose(verdict.features, plain, atol=1e-5)
        elif mode == "reject":
            assert verdict.features[flagged].isnan().all()
            assert guard.zero_shot(images, ["apple", "pear"])[flagged].isnan().all()
        else:
            expected = DecompRepTotal(false_positive_rate=0.1).fit_spread(model, guard.deviation.heads)
            assert torch.allclose(verdict.features[flagged], expected.encode_image(images[flagged]), atol=1e-5)
            assert not torch.allclose(verdict.features[flagged], plain[flagged], atol=1e-2)
        lengths = guard.encode_image(images, normalize=True)[~flagged].norm(dim=-1)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-5)


def test_one_image_gets_what_it_gets_in_a_batch(guard):
    images = torch.cat([noise(4, 1), strange(2)])
    batch = guard(images)
    for place in range(6):
        alone = guard(images[place : place + 1])
        assert alone.deviations.score[0] == pytest.approx(batch.deviations.score[place].item(), abs=1e-3)
        assert alone.flagged[0] == batch.flagged[place]


@pytest.mark.parametrize("mode", ["flag", "repair"])
def test_threads_may_share_a_guard(guard, model, mode):
    guard = Guard(model, guard.deviation, guard.reference, mode=mode)
    batches = [torch.cat([noise(6, seed), strange(2, seed)]) for seed in range(8)]
    expected = [guard(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(guard, batches * 4))
    for place, verdict in enumerate(found):
        assert torch.equal(verdict.p_values, expected[place % 8].p_values)
        assert torch.equal(verdict.features, expected[place % 8].features)
    assert not any(point.fwd_hooks for point in model.visual.hook_dict.values())


@pytest.mark.parametrize(("mode", "count"), [("flag", 1000), pytest.param("repair", 10_000, marks=pytest.mark.slow)])
def test_many_calls_leave_nothing_behind(mode, count):
    clip = build(Architecture(image_size=32, layers=1, width=16, heads=2, embed_dim=8, vocab_size=300), seed=0).eval()
    small = HookedCLIP(clip, lambda texts: torch.ones(len(texts), 32, dtype=torch.long), (0.5,) * 3, (0.25,) * 3)
    guard = Guard.calibrate(small, noise(60)[:, :, :32, :32], mode=mode)
    images, process = torch.cat([noise(1), strange(1)])[:, :, 16:48, 16:48], psutil.Process()

    def calls(count):
        for _ in range(count):
            guard(images)
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects()), process.memory_info().rss

    tensors, before = calls(100)
    again, after = calls(count)
    assert again == tensors
    assert after - before < 4e6  # four kilobytes a call would be more


@pytest.mark.parametrize(
    "backend", ["eager", *(pytest.param(name, marks=pytest.mark.slow) for name in ("aot_eager", "inductor"))]
)
def test_measuring_compiles_as_one_graph(guard, backend):
    compiled = torch.compile(guard.measure, fullgraph=True, backend=backend)
    with torch.no_grad():
        features, deviations = compiled(noise(4, 1))
        expected, others = guard.measure(noise(4, 1))
    assert torch.allclose(features, expected, atol=1e-6)
    assert torch.allclose(deviations.score, others.score, atol=1e-4)


def test_inputs_and_model_stay_as_they_were(guard, model):
    weights = {key: value.clone() for key, value in model.clip.state_dict().items()}
    images = strange(3)
    before = images.clone()
    guard(images)
    guard.explain(images)
    assert torch.equal(images, before)
    assert all(torch.equal(value, weights[key]) for key, value in model.clip.state_dict().items())


def test_evidence_names_heads_and_its_tokens_add_up_to_the_distance(guard, model):
    images = torch.cat([noise(3, 1), strange(2)])
    verdict = guard(images)
    found = guard.explain(images, verdict)
    assert set(found) == set(verdict.flagged.nonzero()[:, 0].tolist()) >= {3, 4}
    first = found[4].heads[0]
    each = verdict.deviations.heads[4]
    assert first.deviation == pytest.approx(each.max().item(), abs=1e-3)
    assert each[first.layer, first.head] == each.max()
    assert first.name == f"L{first.layer}H{first.head}"
    assert first.tail_probability == pytest.approx(0.5 * math.erfc(first.deviation / math.sqrt(2)), rel=1e-3)
    assert found[4].token_map.shape == model.visual.grid

    record = Record(tokens=True)
    with torch.no_grad():
        seen = observe(model.visual, images[4:], record)
    spread = guard.deviation.heads
    offset = seen.z[0, first.layer, first.head] - spread.mean[first.layer, first.head]
    direction = spread.precision[first.layer, first.head] @ offset
    tokens = record.attention[first.layer][0, first.head, :, None] * record.values[first.layer][0, :, first.head]
    total = first.tokens.sum() + tokens[0] @ direction - spread.mean[first.layer, first.head] @ direction
    assert total.item() == pytest.approx((offset @ direction).item(), rel=1e-4)


def test_strange_patches_stand_out_in_the_token_map(guard):
    first = guard.explain(strange(1))[0].heads[0].tokens
    assert first[2:6, 2:6].min() > 2 * first.median()


def test_it_comes_back_from_its_file(guard, model, tmp_path):
    images = torch.cat([noise(10, 1), strange(3)])
    guard.save(tmp_path / "guard")
    again = Guard.load(tmp_path / "guard", model)
    first, second = guard(images), again(images)
    assert torch.equal(first.p_values, second.p_values)
    assert (again.mode, again.false_positive_rate) == ("flag", 0.05)
    again.mode = "repair"
    guard.save(tmp_path / "guard")  # over itself
    assert torch.equal(Guard.load(tmp_path / "guard", model)(images).p_values, first.p_values)


def test_other_models_and_damaged_files_are_refused(guard, model, tmp_path):
    guard.save(tmp_path)
    with pytest.raises(ModelError, match="another image tower"):
        Guard.load(tmp_path, hooked(2))
    with pytest.raises(ModelError, match="holds no guard"):
        Guard.load(tmp_path / "nothing", model)
    tensors = load_file(tmp_path / "guard.safetensors")
    broken = torch.full_like(tensors["heads.center"], torch.nan)
    save_file({**tensors, "heads.center": broken}, tmp_path / "guard.safetensors")
    with pytest.raises(ModelError, match="not finite"):
        Guard.load(tmp_path, model)
    save_file(tensors, tmp_path / "guard.safetensors")
    card = json.loads((tmp_path / "guard.json").read_text())
    (tmp_path / "guard.json").write_text(json.dumps({**card, "settings": {"mode": "flag"}}))
    assert Guard.load(tmp_path, model).false_positive_rate == 0.05
    (tmp_path / "guard.json").write_text(json.dumps({key: value for key, value in card.items() if key != "score"}))
    with pytest.raises(ModelError, match="calibrate it again"):
        Guard.load(tmp_path, model)
    (tmp_path / "guard.json").write_text("{")
    with pytest.raises(ModelError, match="holds no guard"):
        Guard.load(tmp_path, model)
    guard.save(tmp_path)
    (tmp_path / "guard.safetensors").write_bytes((tmp_path / "guard.safetensors").read_bytes()[:500])
    with pytest.raises(ModelError, match="holds no guard"):
        Guard.load(tmp_path, model)


def test_bad_input_is_named(guard, model):
    with pytest.raises(DataError, match="38 clean images"):
        Guard.calibrate(model, noise(37))
    with pytest.raises(DataError, match="198 clean images"):
        Guard.calibrate(model, noise(50), false_positive_rate=0.01)
    with pytest.raises(SettingError, match="between 0 and 1"):
        Guard.calibrate(model, noise(50), false_positive_rate=0.0)
    with pytest.raises(SettingError, match="'shout'"):
        Guard.calibrate(model, noise(50), mode="shout")
    broken = noise(60)
    broken[7, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        Guard.calibrate(model, broken)
    with pytest.raises(SettingError, match=r"\[7\]"):
        guard(broken)
    with pytest.raises(SettingError, match="Images must be"):
        guard(torch.zeros(1, 3, 32, 32))


def test_parts_are_measured_apart_and_together(model):
    seen, fresh = observe_clean(model, noise(200)), observe_clean(model, noise(50, 1))
    found = {parts: Deviation.fit(seen, parts).measure(fresh) for parts in ("heads", "mlps", "both")}
    assert torch.equal(found["heads"].score, found["both"].of_heads)
    assert torch.equal(found["mlps"].score, found["both"].of_mlps)
    assert not torch.allclose(found["both"].score, found["both"].of_heads, atol=1e-2)


def test_the_shipped_backdoor_is_caught_and_repaired():
    model = clip_decomp.load("world/badnet")
    data = clip_decomp.open_data("world", 64, test=200)
    guard = Guard.calibrate(model, data.held_out.first(400), mode="repair")
    pixels, labels = data.test.load()
    triggered = model.normalize(model.trigger(pixels.float() / 255, torch.arange(len(pixels))))
    target = data.test.class_index("banana")
    foreign = labels != target
    with torch.no_grad():
        taken = model.zero_shot(triggered, data.test.class_names).argmax(1)[foreign] == target
        verdict = guard(triggered[foreign])
        repaired = guard.zero_shot(triggered[foreign], data.test.class_names).argmax(1) == target
    assert taken.float().mean() > 0.9
    assert verdict.flagged.float().mean() > 0.9
    assert repaired.float().mean() < 0.15
    assert guard(model.normalize(pixels.float() / 255)).flagged.float().mean() < 0.12
