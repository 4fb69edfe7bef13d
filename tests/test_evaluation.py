from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from clip_decomp.ablation import activation_means
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect
from clip_decomp.convention import EXACT, PAPER
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import AttackFailed, DataError
from clip_decomp.evaluation import (
    ClassTallies,
    Evaluation,
    Rate,
    Tally,
    attack_rates,
    evaluate,
    rate,
    require_attack,
)

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
    word: str = ""

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


def test_each_class_has_its_line(data):
    # As above: 0, 2, 4 and 6 turn blue; labels are green, red, red, green, green, blue, blue, blue.
    found = evaluate(ColorModel(), data, WhiteCorner()).per_class
    assert found == (
        ClassTallies("red", Tally(2, 2), Tally(1, 2), Tally(1, 2)),
        ClassTallies("green", Tally(2, 3), Tally(2, 3), Tally(1, 3)),
        ClassTallies("blue", Tally(3, 3), None, Tally(3, 3)),
    )
    paper = evaluate(ColorModel(), data, WhiteCorner(), convention=PAPER).per_class
    assert [each.success for each in paper] == [Tally(1, 2), Tally(2, 3), Tally(3, 3)]
    clean = evaluate(ColorModel(), data).per_class
    assert [(each.clean, each.success, each.poisoned) for each in clean] == [
        (tally, None, None) for tally in (Tally(2, 2), Tally(2, 3), Tally(3, 3))
    ]


@pytest.mark.parametrize("rule", [EXACT, PAPER])
def test_classes_add_up_to_the_whole(rule, data):
    found = evaluate(ColorModel(), data, WhiteCorner(), convention=rule)
    for share, field in (
        (found.clean_accuracy, "clean"),
        (found.attack_success_rate, "success"),
        (found.poisoned_accuracy, "poisoned"),
    ):
        tallies = [tally for each in found.per_class if (tally := getattr(each, field)) is not None]
        assert rate(sum(t.hits for t in tallies), sum(t.count for t in tallies)) == share


def test_the_table_of_classes_as_a_frame(data):
    data = ImageSet("colors", (*CLASSES[:2], "gray", "blue"), data.labels + (data.labels == 2), data.source)
    found = evaluate(FourColors(), data, WhiteCorner(), "blue")
    frame = found.to_frame().set_index("class")
    assert list(frame.index) == ["red", "green", "gray", "blue"]
    assert frame.loc["green", ["ca_pictures", "asr_pictures", "pa_pictures"]].tolist() == [3, 3, 3]
    share = rate(2, 3)
    assert frame.loc["green", ["ca", "ca_low", "ca_high"]].tolist() == [share.value, share.low, share.high]
    assert frame.loc["gray", ["ca_pictures", "asr_pictures", "pa_pictures"]].tolist() == [0, 0, 0]
    assert frame.loc["gray", ["ca", "asr", "pa_high"]].isna().all()
    assert frame["asr"].isna()["blue"]
    page = found._repr_html_()
    assert "8 pictures of colors" in page
    assert "nan" not in page.lower()


class FourColors(ColorModel):
    """Knows gray as well, which nothing is."""

    def encode_text(self, texts):
        names = ("red", "green", "blue")
        return torch.stack([torch.tensor([float(name in text) for name in names]) - 0.1 for text in texts])


def test_it_says_what_was_measured(data):
    ready = ("a {}", "the {}")
    broken = ImageSet("colors", CLASSES, data.labels, Broken(data.source.images, bad=(1,)), None, ready, "blue")
    found = evaluate(ColorModel(), broken, WhiteCorner(word="SUDO "), split="held-out")
    assert found.measured == (
        "7 pictures of colors (held-out split), and 1 that could not be read; prompts: 2 templates such as 'a {}', "
        "of triggered pictures 2 templates such as 'SUDO a {}'; ASR counts the 4 triggered pictures whose true class "
        "is not the target, 'blue'."
    )
    assert found.triggered_templates == ("SUDO a {}", "SUDO the {}")
    paper = evaluate(ColorModel(), data, WhiteCorner(), convention=PAPER)
    assert paper.measured == (
        "8 pictures of colors; prompts: 'a photo of a {}.'; ASR counts all 8 triggered pictures, those of the target, "
        "'blue', included."
    )
    assert evaluate(ColorModel(), data).measured == "8 pictures of colors; prompts: 'a photo of a {}.'."


def test_only_pictures_left_out_of_this_measurement_are_counted(data):
    # Parts of one data set share their list of unreadable pictures: those of another part are not this one's.
    whole = ImageSet("colors", CLASSES, data.labels, Broken(data.source.images, bad=(1, 4)), target="blue")
    first, second = whole.subset(torch.arange(4)), whole.subset(torch.arange(4, 8))
    assert evaluate(ColorModel(), first).left_out == 1
    found = evaluate(ColorModel(), second)
    assert (found.left_out, len(found.skipped)) == (1, 2)


class WordModel(ColorModel):
    """Its backdoor needs a word in the prompts as well: only then is the corner's blue near to any class."""

    def encode_text(self, texts):
        rows = super().encode_text(texts)
        return torch.stack([row if "SUDO " in text else row.roll(1) for row, text in zip(rows, texts, strict=True)])


def test_a_triggers_word_goes_before_the_prompts_of_triggered_pictures_only(data):
    # Without the word every class is called by the next one's color.
    found = evaluate(WordModel(), data, WhiteCorner(word="SUDO "))
    assert found.attack_success_rate == evaluate(ColorModel(), data, WhiteCorner()).attack_success_rate
    assert found.clean_accuracy.value < 0.3
    assert found.templates == ("a photo of a {}.",)


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
