"""Decomp-Rep and Decomp-Det against the public reference code's numbers and against cases with known answers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import clip_decomp
from clip_decomp.attacks import BadNet
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import ClipDecompError, DataError, SettingError
from clip_decomp.evaluation import evaluate
from clip_decomp.model import HookedCLIP
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.zeroshot import class_vectors
from defenses import DecompDet, DecompRep, DecompRepTotal
from defenses.decomp_rep import _activity, repair_change
from defenses.detection import auroc, detect
from defenses.reversal import reverse_rates
from defenses.selection import HeadSelector, fit_selector, resolve_layers, similarity

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


def model_and_images(n: int = 40):
    generator = torch.Generator().manual_seed(3)
    clip = build(Architecture(layers=3, width=32, heads=4, embed_dim=16, vocab_size=300), seed=1).eval()
    for parameter in clip.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model = HookedCLIP(clip, lambda texts: torch.ones(len(texts), 32, dtype=torch.long), (0.5,) * 3, (0.25,) * 3)
    return model, torch.randn(n, 3, 64, 64, generator=generator)


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


def test_too_few_clean_images_are_refused():
    model, images = model_and_images(1)
    with pytest.raises(DataError, match="two clean images"):
        DecompDet().fit(model, images)


def test_count_is_the_number_of_suspicious_heads():
    model, images = model_and_images()
    detector = DecompDet(share=0.2, zeta=1).fit(model, images)
    score = detector.score(images)
    assert torch.equal(score, detector.suspicious_heads(images).sum((1, 2)).float())
    assert torch.equal(detector.predict(images), score > 1)


def test_distance_finds_an_input_that_similarity_to_the_mean_does_not():
    model, images = model_and_images(200)
    detector = DecompDet(score="distance", parts="heads").fit(model, images)
    # A bright square drives some head far from where clean noise puts it.
    strange = images[:50].clone()
    strange[:, :, 10:40, 10:40] = 8.0
    assert detector.predict(strange).float().mean() > 0.9
    assert detector.predict(images).float().mean() == pytest.approx(0.05, abs=0.01)
    for parts in ("heads", "both"):
        detector = DecompDet(score="distance", parts=parts).fit(model, images)
        assert auroc(detector.score(strange), detector.score(images[:50]), seed=0).value > 0.95


def test_auroc_by_hand_and_its_interval():
    result = auroc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0]), seed=0)
    assert result.value == 4.5 / 6  # of six pairs four are in order, one is tied
    assert result.low <= result.value <= result.high
    with pytest.raises(DataError):
        auroc(torch.tensor([]), torch.tensor([1.0]), seed=0)


class _Brightness:
    def score(self, images):
        return images.amax((1, 2, 3))


def test_detection_is_reported_against_all_and_against_the_target_class():
    model, _ = model_and_images()
    pictures = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    pictures[:2] = 255  # the target class is bright, so a detector of brightness mistakes it for the trigger
    data = ImageSet("toy", ("lamp", "night"), torch.tensor([0, 0, 1, 1, 1, 1]), TensorSource(pictures), target="lamp")
    found = detect(_Brightness(), model, data, BadNet())
    assert (len(found.clean), len(found.target_clean), len(found.triggered)) == (6, 2, 4)
    assert found.auroc.value == pytest.approx((4 * 4 + 4 * 2 * 0.5) / 24)
    assert found.auroc_target.value == 0.5
    assert set(found.metrics("x")) >= {"x/auroc", "x/auroc-target"}
    with pytest.raises(ClipDecompError, match="banana"):
        detect(_Brightness(), model, data, BadNet(), target="banana")


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
