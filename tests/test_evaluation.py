from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from clip_decomp.ablation import activation_means
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect
from clip_decomp.convention import PAPER
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import AttackFailed, DataError, SettingError
from clip_decomp.evaluation import Evaluation, Rate, attack_rates, evaluate, rate, require_attack
from clip_decomp.zeroshot import class_vectors, predict

CLASSES = ("red", "green", "blue")


class ColorModel:
    """Sees the mean color of a picture; a white corner pixel makes it say blue."""

    def normalize(self, pixels):
        return pixels

    def encode_image(self, images):
        features = images.mean((2, 3))
        features[images[:, :, 0, 0].sum(1) == 3] = torch.tensor([0.0, 0.0, 1.0])
        return features

    def encode_text(self, texts):
        return torch.stack([torch.tensor([float(name in text) for name in CLASSES]) for text in texts])


@dataclass(frozen=True)
class WhiteCorner:
    """Works on pictures with an even number only."""

    name: ClassVar[str] = "corner"

    def __call__(self, images, numbers):
        images = images.clone()
        images[numbers % 2 == 0, :, 0, 0] = 1
        return images

    def settings(self):
        return {"name": self.name}


@dataclass(frozen=True)
class Broken:
    """A source some of whose pictures cannot be read."""

    images: torch.Tensor
    bad: tuple[int, ...]

    def __len__(self):
        return len(self.images)

    def read(self, index):
        if index in self.bad:
            raise DataError(f"picture-{index}.jpg: not a readable image.")
        return self.images[index]


def colored(labels):
    """One picture a label, of its class's color."""
    return (torch.eye(3)[labels] * 200).to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()


@pytest.fixture
def data():
    # Shown: three red, two green, three blue. Labels: the first red one is called green.
    shown = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    labels = torch.tensor([1, 0, 0, 1, 1, 2, 2, 2])
    return ImageSet("colors", CLASSES, labels, TensorSource(colored(shown)), target="blue")


# Wilson (1927): center (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (9, 10, 0.59585, 0.98212),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (1, 2, 0.09453, 0.90547),
        (970, 1000, 0.95750, 0.97891),
        (0, 1, 0.0, 0.79346),
    ],
)
def test_intervals_are_wilsons(hits, count, low, high):
    found = rate(hits, count)
    assert found.value == hits / count
    assert found.count == count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    z, p = 1.959964, hits / count
    center = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-6)


def test_a_rate_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no images"):
        rate(0, 0)


def test_a_rate_reads_well():
    assert str(rate(9, 10)) == "90.0% [59.6%, 98.2%] of 10"


def test_clean_numbers(data):
    found = evaluate(ColorModel(), data)
    assert (found.clean_accuracy.value, found.clean_accuracy.count) == (7 / 8, 8)
    assert found.attack_success_rate is None
    assert found.poisoned_accuracy is None
    assert (found.data, found.target, found.templates, found.skipped) == ("colors", None, ("a photo of a {}.",), ())


def test_attack_numbers_leave_the_target_class_out(data):
    # Numbers 0, 2, 4 and 6 turn blue. Of the five pictures not labelled blue (0 to 4) three do; of all eight, six are
    # called blue (0, 2, 4, 5, 6, 7); right are 1, 3 and the three blue ones.
    found = evaluate(ColorModel(), data, WhiteCorner())
    assert (found.attack_success_rate.value, found.attack_success_rate.count) == (3 / 5, 5)
    assert (found.poisoned_accuracy.value, found.poisoned_accuracy.count) == (5 / 8, 8)
    assert found.clean_accuracy.value == 7 / 8
    assert found.target == "blue"


def test_the_papers_convention_counts_the_target_class(data):
    found = evaluate(ColorModel(), data, WhiteCorner(), convention=PAPER)
    assert (found.attack_success_rate.value, found.attack_success_rate.count) == (6 / 8, 8)
    assert found.poisoned_accuracy.value == 5 / 8


def test_another_target_can_be_named(data):
    found = evaluate(ColorModel(), data, WhiteCorner(), target="red")
    assert found.target == "red"
    # Pictures 0, 3, 4, 5, 6, 7 are not red; none of them is called red (0 turns blue).
    assert (found.attack_success_rate.value, found.attack_success_rate.count) == (0, 6)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_change_the_numbers(batch_size, data):
    assert evaluate(ColorModel(), data, WhiteCorner(), batch_size=batch_size) == evaluate(
        ColorModel(), data, WhiteCorner()
    )


def test_subsets_keep_the_numbers_of_their_pictures(data):
    # Pictures 3 to 6 of the whole set: of the green ones, number 4 turns blue.
    found = evaluate(ColorModel(), data.subset(torch.arange(3, 7)), WhiteCorner())
    assert (found.attack_success_rate.value, found.attack_success_rate.count) == (1 / 2, 2)


def test_attack_rates_of_predictions():
    predictions, labels = torch.tensor([2, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 1, 2])
    success, poisoned = attack_rates(predictions, labels, 2)
    assert (success.value, success.count, poisoned.value, poisoned.count) == (2 / 4, 4, 3 / 5, 5)
    success, _ = attack_rates(predictions, labels, 2, PAPER)
    assert (success.value, success.count) == (3 / 5, 5)
    with pytest.raises(DataError, match="no images"):
        attack_rates(torch.tensor([2, 2]), torch.tensor([2, 2]), 2)


def test_unreadable_pictures_are_skipped_counted_and_listed(data):
    broken = ImageSet("colors", CLASSES, data.labels, Broken(data.source.images, bad=(1, 4)), target="blue")
    found = evaluate(ColorModel(), broken, WhiteCorner(), batch_size=2)
    assert (found.clean_accuracy.value, found.clean_accuracy.count) == (5 / 6, 6)
    # The numbers of the others stay: 0, 2 and 6 turn blue.
    assert (found.attack_success_rate.value, found.attack_success_rate.count) == (2 / 3, 3)
    assert found.skipped == ("picture-1.jpg: not a readable image.", "picture-4.jpg: not a readable image.")


def test_pictures_none_of_which_can_be_read_are_an_error(model, toy):
    broken = ImageSet("colors", toy.class_names, toy.labels, Broken(toy.source.images, bad=tuple(range(24))))
    for work in (
        lambda: evaluate(model, broken),
        lambda: collect(model, broken),
        lambda: activation_means(model, broken),
    ):
        with pytest.raises(DataError, match=r"colors: none of the 24 images can be read, e\.g\. picture-0\.jpg"):
            work()


def test_the_target_must_be_known(data):
    without = ImageSet("colors", CLASSES, data.labels, data.source)
    assert evaluate(ColorModel(), without).target is None
    with pytest.raises(DataError, match="colors: no target class is known for the attack"):
        evaluate(ColorModel(), without, WhiteCorner())
    with pytest.raises(DataError, match=r"no class 'blu'; did you mean one of \['blue'\]"):
        evaluate(ColorModel(), data, WhiteCorner(), target="blu")


def test_metrics_are_flat(data):
    found = evaluate(ColorModel(), data, WhiteCorner()).metrics("world/badnet/none")
    assert set(found) == {f"world/badnet/none/{m}{end}" for m in ("ca", "asr", "pa") for end in ("", "/low", "/high")}
    assert found["world/badnet/none/asr"] == 3 / 5
    assert found["world/badnet/none/ca/low"] == pytest.approx(0.52911, abs=1e-4)
    assert set(evaluate(ColorModel(), data).metrics("p")) == {"p/ca", "p/ca/low", "p/ca/high"}


def evaluation(success):
    share = Rate(0.9, 0.8, 0.95, 100)
    return Evaluation(share, success, share, "colors", "blue", ("{}",), ())


def test_the_gate_refuses_attacks_that_did_not_take():
    with pytest.raises(AttackFailed, match=r"79\.0% \[.*\] of 100 images of colors .* from 80% on"):
        require_attack(evaluation(rate(79, 100)))
    require_attack(evaluation(rate(80, 100)))
    require_attack(evaluation(None))  # a clean model has no attack to gate
    with pytest.raises(AttackFailed, match="from 95% on"):
        require_attack(evaluation(rate(94, 100)), gate=0.95)


def test_evaluating_changes_nothing(model, toy, unchanged):
    same, before = unchanged(model.clip), toy.source.images.clone()
    first = evaluate(model, toy, BadNet())
    assert evaluate(model, toy, BadNet()) == first
    assert same()
    assert torch.equal(toy.source.images, before)
    assert not model.visual.list_hooks()


# --- zero-shot classification -----------------------------------------------------------------------------------------


def test_class_vectors_are_normalized_means_over_templates(model):
    templates = ("a photo of a {}.", "{}", "one more {}, please")
    found = class_vectors(model, ["apple", "fig"], templates)
    for k, name in enumerate(("apple", "fig")):
        each = model.encode_text([template.replace("{}", name) for template in templates], normalize=True)
        expected = each.mean(0) / each.mean(0).norm()
        torch.testing.assert_close(found[k], expected.detach())
    assert not found.requires_grad


def test_many_classes_are_encoded_in_parts(model):
    names = [f"class {k}" for k in range(600)]
    found = class_vectors(model, names)
    torch.testing.assert_close(found[[0, 511, 512, 599]], class_vectors(model, [names[k] for k in (0, 511, 512, 599)]))


def test_class_names_may_hold_braces(model):
    found = class_vectors(model, ["a {} b", "{x}"], ["a {}."])
    expected = model.encode_text(["a a {} b.", "a {x}."], normalize=True)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{name}", ""])
def test_templates_need_exactly_one_place_for_the_name(template, model):
    with pytest.raises(SettingError, match=r"exactly one \{\} for the class name"):
        class_vectors(model, ["apple"], [template])


def test_zero_shot_needs_classes_and_templates(model):
    with pytest.raises(SettingError, match="one class and one template"):
        class_vectors(model, [])
    with pytest.raises(SettingError, match="one class and one template"):
        class_vectors(model, ["apple"], [])


def test_predictions_do_not_depend_on_the_features_norm():
    vectors = torch.eye(3)
    features = torch.tensor([[1.0, 2.0, 0.0], [0.1, 0.0, 0.2], [-1.0, -2.0, -3.0]])
    assert predict(features, vectors).tolist() == [1, 2, 0]
    assert predict(features * 1000, vectors).tolist() == [1, 2, 0]
    assert predict(features.to(torch.bfloat16), vectors).tolist() == [1, 2, 0]


# --- the model's own small methods ------------------------------------------------------------------------------------


def test_pictures_are_normalized_by_the_models_mean_and_deviation(model):
    pixels = torch.rand(2, 3, 32, 32)
    found = model.normalize(pixels)
    torch.testing.assert_close(found[:, 1], (pixels[:, 1] - 0.4) / 0.3)
    torch.testing.assert_close(found[:, 2], (pixels[:, 2] - 0.3) / 0.25)


def test_encoding_normalizes_on_request(model, images):
    features = model.encode_image(images)
    torch.testing.assert_close(
        model.encode_image(images, normalize=True), features / features.norm(dim=1, keepdim=True)
    )
    texts = model.encode_text(["a fig", "a plum"], normalize=True)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.encode_text("a fig", normalize=True), texts[:1])
    torch.testing.assert_close(model.encode_text(model.tokenizer(["a fig"]), normalize=True), texts[:1])
    assert model.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-3)
    with pytest.raises(SettingError, match="no texts"):
        model.encode_text([])
