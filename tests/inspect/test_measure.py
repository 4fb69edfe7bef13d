"""The report against the plain way to compute each of its numbers."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.ablation.parts import part_effects
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.evaluation import evaluate
from clip_decomp.methods.mmd import mmd_test
from clip_decomp.methods.textspan import textspan
from clip_decomp.texts import TextPool, encode_pool
from clip_decomp.zeroshot import class_vectors


@torch.no_grad()
def contributions(model, data, trigger=None):
    pixels = data.load()[0].float() / 255
    if trigger is not None:
        pixels = trigger(pixels, torch.arange(len(data)))
    return model.decompose(model.normalize(pixels), tokens=True)


def feature(model, view):
    if view.source == "target":
        return class_vectors(model, ["fig"], ("a photo of a {}.",))
    return encode_pool(model, TextPool((view.text,), ("x",)))


@pytest.mark.parametrize("side", ["clean", "triggered"])
def test_the_pictures_shown_are_those_pushed_most_and_least(tiny, data, trigger, report, side):
    dec = contributions(tiny, data, trigger if side == "triggered" else None)
    for view in report.views:
        text = feature(tiny, view)
        push = dec.toward(text)[:, 1, 2, 0]
        maps = dec.token_map(text, [1], [2])[:, 0, 0, :, 0]
        order = push.argsort(descending=True).tolist()
        pushes = view.side(side)
        assert [shown.number for shown in pushes.most] == order[:3], view.text
        assert [shown.number for shown in pushes.least] == order[:-4:-1], view.text
        assert (pushes.mean, pushes.std) == pytest.approx((push.mean().item(), push.std(correction=0).item()), rel=1e-4)
        for shown in (*pushes.most, *pushes.least):
            own = maps[shown.number]
            assert shown.push == pytest.approx(push[shown.number].item(), rel=1e-4, abs=1e-6)
            assert shown.token_map.shape == (4, 4)
            torch.testing.assert_close(torch.from_numpy(shown.token_map), own[1:].reshape(4, 4), rtol=1e-4, atol=1e-6)
            assert shown.rest == pytest.approx(own[0].item(), abs=1e-5)
            assert shown.class_name == data.class_names[shown.number % 4]
            assert report.pictures[side, shown.number].startswith("data:image/")


def test_only_pictures_that_are_shown_are_on_the_page(report):
    shown = {
        (side, each.number)
        for view in report.views
        for side in report.sides
        for pushes in [view.side(side)]
        for each in (*pushes.most, *pushes.least)
    }
    assert set(report.pictures) == shown


def test_texts_are_those_of_textspan_then_the_target_then_the_given_ones(tiny, data, trigger, report, pool):
    features = encode_pool(tiny, pool)
    clean, bad = (contributions(tiny, data, each).heads[:, 1, 2] for each in (None, trigger))
    expected = [textspan(each, features, 3).indices.tolist() for each in (clean, bad)]
    assert [report.span(side).indices.tolist() for side in report.sides] == expected
    own = list(dict.fromkeys(pool.texts[index] for chosen in expected for index in chosen))
    assert [view.text for view in report.views][: len(own)] == own
    assert [view.source for view in report.views][-2:] == ["target", "given"]
    assert [view.text for view in report.views][-2] == "a photo of a fig."
    assert {view.source for view in report.views[: len(own)]} <= {"clean", "triggered"}


def test_mmd_is_that_of_the_contributions_in_the_joint_space(tiny, data, trigger, report):
    clean, bad = (contributions(tiny, data, each).heads[:, 1, 2] for each in (None, trigger))
    expected = mmd_test(clean, bad, sigma="median", seed=1, paired=True)
    assert report.mmd.value == pytest.approx(expected.value, rel=1e-3)
    assert report.mmd.p_value == pytest.approx(expected.p_value)
    assert report.metrics("x")["x/mmd;component=L1H2"] == pytest.approx(expected.value / 1000, rel=1e-3)


def test_effects_are_those_of_parts_and_the_baseline_that_of_the_evaluator(tiny, data, trigger, report):
    plain = evaluate(tiny, data, trigger)
    base, *ablated = report.ablated
    assert (base.clean_accuracy, base.attack_success_rate) == (plain.clean_accuracy, plain.attack_success_rate)
    for found, effect in zip(ablated, ("direct", "total"), strict=True):
        expected = part_effects(tiny, data, data.first(16), trigger, ["L1H2"], effect=effect)
        assert found.effect == effect
        assert found.clean_accuracy.value == pytest.approx(expected.clean_accuracy[0])
        assert found.attack_success_rate.value == pytest.approx(expected.attack_success_rate[0])
        assert (found.clean_accuracy.count, found.attack_success_rate.count) == (48, 36)


def test_without_a_trigger_there_is_nothing_about_an_attack(tiny, data, plain, report):
    assert (plain.sides, plain.roles, plain.mmd, plain.target, plain.trigger) == (("clean",), None, None, None, None)
    assert [each.attack_success_rate for each in plain.ablated] == [None] * 3
    # What is known of clean pictures does not depend on the attack.
    ours, theirs = ([each.clean_accuracy for each in one.ablated] for one in (plain, report))
    assert ours == theirs
    assert [view.text for view in plain.views] == [view.text for view in report.views if view.source == "clean"]
    assert plain.explained.indices.tolist() == report.explained.indices.tolist()
    assert not [name for name in plain.metrics("x") if "asr" in name or "mmd" in name or "role" in name]
    asked = tiny.head(1, 2).inspect(data, data, target="plum", pool=plain.pool, n_images=1, n_texts=1)
    assert [view.source for view in asked.views] == ["clean", "target"]


def test_numbers_and_texts_come_as_metrics_and_as_a_table(report):
    found = report.metrics("toy/badnet/none")
    base, direct, _ = report.ablated
    assert found["toy/badnet/none/asr"] == base.attack_success_rate.value
    assert found["toy/badnet/none/ca;component=L1H2;effect=direct"] == direct.clean_accuracy.value
    assert found["toy/badnet/none/role-similarity;component=L1H2"] == report.roles.similarity
    assert found["toy/badnet/none/mmd-p;component=L1H2"] == report.mmd.p_value
    shares = [value for name, value in found.items() if "/property;" in name and "pictures=clean" in name]
    assert sum(shares) == pytest.approx(1)
    frame = report.to_frame()
    assert frame.pictures.tolist() == ["clean"] * 3 + ["triggered"] * 3
    assert frame.text.tolist()[:3] == list(report.explained.texts)
    assert frame.explained_variance_ratio.tolist()[:3] == report.explained.explained_variance_ratio.tolist()


def test_the_model_and_the_data_stay_as_they_are(model, data, trigger, pool, unchanged):
    check, before = unchanged(model.clip), data.source.images.clone()
    model.head(0, 0).inspect(data, data.first(16), trigger, pool=pool, n_images=2, n_texts=2)
    assert check()
    assert torch.equal(data.source.images, before)
    assert not [name for name, point in model.visual.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]


class Counting(TensorSource):
    """Counts what is read; one picture is broken."""

    def __init__(self, images):
        super().__init__(images)
        object.__setattr__(self, "reads", [])

    def read(self, index):
        self.reads.append(index)
        if index == 5:
            raise DataError("picture 5 is broken")
        return super().read(index)


def test_unreadable_pictures_are_counted_and_few_are_read_again(tiny, data, pool):
    source = Counting(data.source.images)
    broken = replace(data, source=source, skipped=[])
    found = tiny.head(1, 2).inspect(broken, data.first(16), pool=pool, n_images=1, n_texts=1)
    assert (found.count, found.skipped) == (47, ("picture 5 is broken",))
    assert "picture 5 is broken" in found.html()
    # One pass for what the head writes, two for its effects, and the two pictures that are shown.
    assert len(source.reads) == 3 * 48 + 2


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"n_images": 0}, SettingError, "one picture or more, not 0"),
        ({"n_images": 25}, DataError, "48 images cannot show the 25 most and 25 least"),
        ({"n_texts": 0}, SettingError, "not 0"),
        ({"target": "fog"}, DataError, "fog.*fig"),
        ({"texts": ["red", "Red"]}, DataError, "red.*2 times"),
        ({"texts": [" "]}, DataError, "one line of words"),
    ],
)
def test_bad_settings_are_named(tiny, data, trigger, pool, settings, error, words):
    with pytest.raises(error, match=words):
        tiny.head(1, 2).inspect(data, data, trigger, pool=pool, **settings)


def test_a_trigger_needs_a_target(tiny, data, trigger, pool):
    with pytest.raises(SettingError, match="toy has no target class for badnet"):
        tiny.head(1, 2).inspect(replace(data, target=None), data, trigger, pool=pool)


def test_too_few_and_constant_pictures_are_named(tiny, data, trigger, pool):
    few = data.first(15)
    with pytest.raises(DataError, match=r"halves of 15 images cannot span rank 8.*give 16 images or more"):
        tiny.head(1, 2).inspect(few, data, trigger, pool=pool, n_images=1)
    with pytest.raises(DataError, match="7 images cannot span rank 8"):
        tiny.head(1, 2).inspect(data.first(7), data, pool=pool, n_images=1)
    same = ImageSet("same", data.class_names, torch.arange(16) % 4, TensorSource(torch.zeros(16, 3, 32, 32).byte()))
    with pytest.raises(DataError, match="constant"):
        tiny.head(1, 2).inspect(same, data, pool=pool, n_images=1)


def test_values_that_are_not_finite_are_named(model, data, pool):
    with torch.no_grad():
        model.clip.visual.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="48 of 48 contributions are NaN"):
        model.head(1, 2).inspect(data, data, pool=pool)
    with torch.no_grad():
        model.clip.text_projection[0, 0] = float("nan")
    with pytest.raises(ModelError, match="text features of 'a red apple'"):
        model.head(1, 2).inspect(data, data, pool=pool)
