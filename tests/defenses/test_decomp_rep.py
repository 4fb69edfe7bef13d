"""Decomp-Rep, its reversal and its variant on the way against cases with known answers."""

import pytest
import torch

import clip_decomp
from clip_decomp.attacks import BadNet
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import ClipDecompError, SettingError
from clip_decomp.evaluation import evaluate
from clip_decomp.zeroshot import class_vectors
from defenses import DecompDet, DecompRep, DecompRepTotal
from defenses.decomp_rep import _activity
from defenses.reversal import reverse_rates
from defenses.selection import fit_selector, resolve_layers, similarity

from .tiny import model_and_images


def test_similarity_by_hand():
    heads = torch.tensor([[[[3.0, 4.0], [0.0, 2.0]]]])
    prototypes = torch.tensor([[[1.0, 0.0], [0.0, -5.0]]])
    assert similarity(heads, prototypes, "dot").tolist() == [[[3.0, -10.0]]]
    assert torch.allclose(similarity(heads, prototypes, "cosine"), torch.tensor([[[0.6, -1.0]]]))


@pytest.mark.parametrize("measure", ["dot", "cosine"])
def test_calibrated_epsilon_selects_its_share_of_clean_heads(measure):
    heads = torch.randn(400, 1, 12, 8, generator=torch.Generator().manual_seed(0)) + 1
    selector = fit_selector(heads, (0,), None, measure, 0.1)
    assert selector.select(heads).float().mean() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"epsilon": -1.0}, "Epsilon"), ({"measure": "angle"}, "angle"), ({"share": 1.5}, "1.5")],
)
def test_bad_settings_are_named(settings, word):
    with pytest.raises(SettingError, match=word):
        DecompRep(**settings).fit(*model_and_images())


def test_other_bad_settings_are_named():
    for build_one, word in (
        (lambda: DecompRep(components="patches"), "patches"),
        (lambda: DecompRep(replacement="noise"), "noise"),
        (lambda: DecompRep("auto", layers=(0,)), "auto"),
        (lambda: DecompRep(heads=(4,)).fit(*model_and_images()), "4"),
        (lambda: DecompRep(heads=5).fit(*model_and_images()), "5"),
        (lambda: DecompRep(heads=()).fit(*model_and_images()), "not among"),
        (lambda: DecompDet(score="distance", parts="tokens"), "tokens"),
        (lambda: DecompDet(score="vibes"), "vibes"),
        (lambda: resolve_layers((), 4), "one layer"),
        (lambda: resolve_layers((4,), 4), "no layer 4"),
    ):
        with pytest.raises(SettingError, match=word):
            build_one()


def test_nothing_selected_leaves_the_representation_alone():
    model, images = model_and_images()
    fixed = DecompRep(epsilon=0.0, measure="cosine").fit(model, images)
    untouched = ~fixed.selector_.select(model.decompose(images, convention="paper").heads[:, [2]]).any(-1).any(-1)
    assert untouched.any()
    with torch.no_grad():
        before, after = model.encode_image(images)[untouched], fixed.encode_image(images)[untouched]
    assert torch.allclose(before, after, atol=1e-5)


def test_everything_selected_puts_prototypes_in_every_place():
    model, images = model_and_images()
    with torch.no_grad():
        fixed = DecompRep(epsilon=1e9).fit(model, images)
        dec = model.decompose(images, convention="paper")
        expected = dec.sum() - dec.heads[:, 2].sum(1) + dec.heads[:, 2].mean(0).sum(0)
        assert torch.allclose(fixed.encode_image(images), expected * dec.norm[:, None], atol=1e-5)


def test_mlp_variant_replaces_the_last_mlps_by_their_means():
    model, images = model_and_images()
    with torch.no_grad():
        fixed = DecompRep(components="mlps", layers=(-2, -1)).fit(model, images)
        dec = model.decompose(images, convention="paper")
        expected = dec.sum() - dec.mlps[:, 1:].sum(1) + dec.mlps[:, 1:].mean(0).sum(0)
        assert torch.allclose(fixed.encode_image(images), expected * dec.norm[:, None], atol=1e-5)


def test_fixed_heads_are_replaced_in_every_image():
    model, images = model_and_images()
    fixed = DecompRep(heads=(0, 2)).fit(model, images)
    with torch.no_grad():
        dec = model.decompose(images, convention="paper")
    others = dec.sum() - dec.heads[:, 2, [0, 2]].sum(1) + dec.heads[:, 2, [0, 2]].mean(0).sum(0)
    assert torch.allclose(fixed.encode_image(images), others * dec.norm[:, None], atol=1e-5)


def test_random_heads_are_as_many_as_asked_for_and_differ_between_images():
    model, images = model_and_images()
    fixed = DecompRep(heads=3).fit(model, images)
    chosen = fixed._chosen(model.decompose(images, convention="paper").heads[:, [2]])
    assert (chosen.sum(-1) == 3).all()
    assert len(chosen[:, 0].unique(dim=0)) == 4  # of four heads, each is left out somewhere
    assert torch.equal(fixed.encode_image(images), fixed.encode_image(images))


def test_random_values_are_standard_normal():
    model, images = model_and_images()
    fixed = DecompRep(epsilon=1e9, replacement="random").fit(model, images)
    with torch.no_grad():
        dec = model.decompose(images, convention="paper")
    written = fixed.encode_image(images) / dec.norm[:, None] - (dec.sum() - dec.heads[:, 2].sum(1))
    assert written.std() == pytest.approx(2, abs=0.15)  # of the sum of four heads
    assert written.mean().abs() < 0.2


def test_auto_repairs_heads_or_mlps_by_each_images_own_evidence():
    model, images = model_and_images(120)
    auto = DecompRep("auto", epsilon=1e9).fit(model, images)
    with torch.no_grad():
        strange = images[60:].clone()
        strange[:, :, 10:40, 10:40] = 8.0
        dec = model.decompose(torch.cat([images[:60], strange]), convention="paper")
        plain = dec.sum() * dec.norm[:, None]
        heads = DecompRep("heads", epsilon=1e9).fit(model, images).repair(dec)
        mlps = DecompRep("mlps").fit(model, images).repair(dec)
        measured = auto.deviation_.measure(_activity(dec))
        by_heads = (measured.of_heads >= measured.of_mlps)[:, None]
        repaired = torch.where(by_heads, heads, mlps)
        deviant = measured.score > auto.cutoff_
        assert deviant[60:].float().mean() > 0.5 > 0.1 > deviant[:60].float().mean()
        assert torch.allclose(auto.repair(dec), torch.where(deviant[:, None], repaired, plain), atol=1e-5)
        auto.cutoff_ = -1e9  # every image is repaired
        assert by_heads.any()
        assert not by_heads.all()
        assert torch.allclose(auto.repair(dec), repaired, atol=1e-5)


def test_decomp_reverse_brings_the_selected_heads_of_the_triggered_image():
    model, images = model_and_images()
    fixed = DecompRep(heads=(1,)).fit(model, images)
    with torch.no_grad():
        clean = model.decompose(images[:5], convention="paper")
        bad = model.decompose(images[5:10], convention="paper")
        expected = (clean.sum() - clean.heads[:, 2, 1] + bad.heads[:, 2, 1]) * clean.norm[:, None]
        assert torch.allclose(fixed.reverse(clean, bad), expected, atol=1e-5)
        with pytest.raises(SettingError, match="convention"):
            fixed.reverse(clean, model.decompose(images[5:10]))


def test_decomp_reverse_over_a_data_set_is_what_it_is_picture_by_picture():
    model, images = model_and_images()
    fixed = DecompRep(heads=(0, 1, 2, 3)).fit(model, images)
    pixels = torch.randint(256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet("toy", ("lamp", "night"), torch.tensor([0, 0, 1, 1, 1, 1]), TensorSource(pixels), target="lamp")
    trigger = BadNet(share=0.6)
    success, accuracy = reverse_rates(fixed, data, trigger, batch_size=4)
    with torch.no_grad():
        sides = (pixels / 255, trigger(pixels / 255, torch.arange(6)))
        clean, bad = (model.decompose(model.normalize(each), convention="paper") for each in sides)
        vectors = class_vectors(model, data.class_names, data.templates)
        found = (fixed.reverse(clean, bad) @ vectors.T).argmax(1)
    assert (success.count, accuracy.count) == (4, 6)
    assert success.value == (found[2:] == 0).float().mean()
    assert accuracy.value == pytest.approx((found == data.labels).float().mean().item())
    with pytest.raises(ClipDecompError, match="banana"):
        reverse_rates(fixed, data, trigger, target="banana")


def test_repair_leaves_model_and_images_as_they_were():
    model, images = model_and_images()
    weights = {key: value.clone() for key, value in model.clip.state_dict().items()}
    pixels = images.clone()
    with torch.no_grad():
        DecompRep().fit(model, images).encode_image(images)
    assert torch.equal(images, pixels)
    assert all(torch.equal(value, weights[key]) for key, value in model.clip.state_dict().items())


def test_repair_on_the_way_leaves_typical_images_alone_and_removes_its_hooks():
    model, images = model_and_images(60)
    with torch.no_grad():
        fixed = DecompRepTotal(false_positive_rate=1e-6).fit(model, images)
        # At this rate the threshold is each head's second-largest clean distance: most images keep every head.
        z = model.decompose(images).z
        kept = ~torch.stack([fixed.deviant(z[:, k], k) for k in range(3)]).any(0).any(-1)
        assert kept.sum() >= 40
        assert torch.allclose(fixed.encode_image(images)[kept], model.encode_image(images)[kept], atol=1e-5)
    assert not any(point.fwd_hooks for point in model.visual.hook_dict.values())


def test_repair_on_the_way_puts_the_mean_where_a_head_deviates():
    model, images = model_and_images(60)
    with torch.no_grad():
        fixed = DecompRepTotal(layers=(1,)).fit(model, images)
        fixed.threshold_[1] = torch.tensor([-1.0, 1e9, 1e9, 1e9])  # only head 0 of layer 1 deviates, always

        def patch(z, hook):
            z = z.clone()
            z[:, 0, 0] = fixed.spread_.mean[1, 0]
            return z

        expected = model.visual.run_with_hooks(images, fwd_hooks=[("blocks.1.attn.hook_z", patch)])
        assert torch.allclose(fixed.encode_image(images), expected, atol=1e-5)
        assert not torch.allclose(expected, model.encode_image(images), atol=1e-3)


def test_repair_on_the_way_takes_the_backdoor_out_of_the_shipped_model():
    model = clip_decomp.load("world/badnet")
    data = clip_decomp.open_data("world", 64, test=300)
    before = evaluate(model, data.test, model.trigger)
    after = evaluate(DecompRepTotal().fit(model, data.held_out), data.test, model.trigger)
    assert before.attack_success_rate.value > 0.9
    assert after.attack_success_rate.value < 0.2
    assert after.clean_accuracy.value > before.clean_accuracy.value - 0.04
    with pytest.raises(SettingError, match=r"1\.5"):
        DecompRepTotal(false_positive_rate=1.5)
