"""Single heads, MLPs and neurons: direct and total effects against the plain way to compute them."""

import pytest
import torch

from clip_decomp.ablation.parts import Part, part_effects
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.neurons import neurons
from clip_decomp.zeroshot import class_vectors

NAMES = ("L0H1", "L2H3", "L1MLP", "L2N40")
TRIGGER = BadNet(share=0.25)


def sides(model, toy):
    pixels, labels = toy.load()
    pixels = pixels.float() / 255
    return [model.normalize(each) for each in (pixels, TRIGGER(pixels, torch.arange(24)))], labels


def scores(model, toy, encode):
    """Clean accuracy, ASR and poisoned accuracy of an encoder, counted by hand."""
    (clean, bad), labels = sides(model, toy)
    vectors = class_vectors(model, toy.class_names, toy.templates)
    good, wrong = ((encode(each) @ vectors.T).argmax(1) for each in (clean, bad))
    foreign = labels != 3
    return [
        (good == labels).float().mean().item(),
        (wrong[foreign] == 3).float().mean().item(),
        (wrong == labels).float().mean().item(),
    ]


@torch.no_grad()
def contribution(model, images, part):
    dec = model.decompose(images)
    if part.kind == "head":
        return dec.heads[:, part.layer, part.index]
    if part.kind == "mlp":
        return dec.mlps[:, part.layer]
    return neurons(model, images, part.layer).contribution(part.index)


def test_direct_effects_edit_the_sum(model, toy):
    found = part_effects(model, toy, toy, TRIGGER, NAMES, batch_size=7)
    (clean, _), _ = sides(model, toy)
    for k, name in enumerate(NAMES):
        part = Part.parse(name)
        mean = contribution(model, clean, part).mean(0)
        expected = scores(
            model, toy, lambda x, p=part, m=mean: model.encode_image(x).detach() + m - contribution(model, x, p)
        )
        mine = [found.clean_accuracy[k], found.attack_success_rate[k], found.poisoned_accuracy[k]]
        assert mine == pytest.approx(expected), name
    assert found.baseline == pytest.approx(scores(model, toy, lambda x: model.encode_image(x).detach()))
    assert (found.effect, found.count, found.names) == ("direct", 24, NAMES)


def test_total_effects_patch_the_activation_and_run_on(model, toy):
    found = part_effects(model, toy, toy, TRIGGER, NAMES, effect="total", batch_size=7)
    (clean, _), _ = sides(model, toy)
    for k, name in enumerate(NAMES):
        part = Part.parse(name)
        with torch.no_grad():
            mean = model.visual.run_with_cache(clean)[1][part.hook].mean(0)

        def patch(activation, hook, part=part, mean=mean):
            activation = activation.clone()
            if part.kind == "mlp":
                activation[:] = mean
            else:
                activation[:, :, part.index] = mean[:, part.index]
            return activation

        def encode(images, part=part, patch=patch):
            with torch.no_grad(), model.visual.hooks(fwd_hooks=[(part.hook, patch)]):
                return model.encode_image(images)

        mine = [found.clean_accuracy[k], found.attack_success_rate[k], found.poisoned_accuracy[k]]
        assert mine == pytest.approx(scores(model, toy, encode)), name
    assert found.effect == "total"


def test_the_two_effects_answer_different_questions(model, toy):
    direct, total = (part_effects(model, toy, toy, TRIGGER, ["L0MLP"], effect=each) for each in ("direct", "total"))
    assert direct.baseline == pytest.approx(total.baseline)
    assert direct.poisoned_accuracy != total.poisoned_accuracy or direct.clean_accuracy != total.clean_accuracy


def test_names_of_parts():
    for name in ("L11H3", "L0MLP", "L2N3071"):
        assert Part.parse(name).name == name
    assert Part.parse("L2N40").hook == "blocks.2.mlp.hook_post"
    for wrong in ("", "H3", "L1", "L1X2", "l1h2", "L1H", "L1MLP3", "L1H2 ", "L-1H0"):
        with pytest.raises(SettingError, match="Parts are written L11H3"):
            Part.parse(wrong)


def test_results_become_tables(model, toy):
    found = part_effects(model, toy, toy, TRIGGER, ["L0H1"])
    assert found.to_frame()["part"].tolist() == ["L0H1"]
    assert "<table" in found._repr_html_()
    assert found.metrics("world/badnet/none") == {
        "world/badnet/none/asr;component=L0H1;effect=direct": found.attack_success_rate[0],
        "world/badnet/none/ca;component=L0H1;effect=direct": found.clean_accuracy[0],
    }


def test_nothing_is_changed_and_no_hook_stays(model, toy, unchanged):
    check = unchanged(model.clip)
    for effect in ("direct", "total"):
        part_effects(model, toy, toy, TRIGGER, NAMES, effect=effect)
    assert check()
    assert not any(point.fwd_hooks for point in model.visual.hook_dict.values())


def test_wrong_settings_are_refused(model, toy):
    for parts, message in (
        ([], "Name one part"),
        (["L3H0"], "no L3H0: this tower has layers 0 to 2"),
        (["L0H4"], "no L0H4: layer 0 has 4 heads"),
        (["L0N128"], "no L0N128: layer 0 has 128 neurons"),
    ):
        with pytest.raises(SettingError, match=message):
            part_effects(model, toy, toy, TRIGGER, parts)
    with pytest.raises(SettingError, match="direct and total, not 'both'"):
        part_effects(model, toy, toy, TRIGGER, ["L0H0"], effect="both")
    with pytest.raises(DataError, match="no class 'banana'"):
        part_effects(model, toy, toy, TRIGGER, ["L0H0"], target="banana")
