"""What a defense may learn from: the training part, or what is held out, and nothing that is measured on."""

import pytest
import torch
from PIL import Image

from clip_decomp.data import open_data
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError
from clip_decomp.training.streams import pair_stream
from defenses.few_shot import in_order, training_pictures


def test_of_a_folder_held_out_pictures_are_tuned_on_or_all_where_nothing_is_measured(tmp_path):
    for number in range(20):
        place = tmp_path / ("pear" if number % 2 else "fig")
        place.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(place / f"{number:02}.png")
    spec = str(tmp_path)
    test, some = open_data(spec, 32).test, training_pictures(spec, 32, measured=f"{tmp_path.parent}/./{tmp_path.name}/")
    every = training_pictures(spec, 32, measured="world")
    assert torch.equal(training_pictures(spec, 32).indices, some.indices)
    assert (len(test), len(some), len(every)) == (16, 4, 20)
    assert not set(test.indices.tolist()) & set(some.indices.tolist())
    assert torch.equal(every.indices, torch.arange(20))
    assert every.class_names == ("fig", "pear")
    assert training_pictures(spec, 32, template="no {}").templates == ("no {}",)
    pairs, _ = pair_stream(spec, 32, seed=5, measured=spec)
    assert torch.equal(pairs.images, open_data(spec, 32, seed=3).held_out.load()[0])
    assert pair_stream(spec, 32)[0].length == 4
    assert pair_stream(f"{spec}/", 32, measured="world")[0].length == 20


def test_where_there_are_training_pictures_they_alone_are_tuned_on():
    whole, own = training_pictures("world", 64, shots=1, measured="elsewhere"), open_data("world", 64, train=4000).train
    assert torch.equal(whole.load()[0], own.load()[0])
    shifted = open_data("world:outlines", 64, test=30)  # its parts have nothing in common
    assert torch.equal(shifted.to_learn_from(measured=False).load()[0], shifted.held_out.load()[0])


def test_classes_in_another_order_are_told_by_name_and_others_refused():
    source = TensorSource(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))
    data = ImageSet("fruit", ("fig", "pear", "plum"), torch.tensor([2, 0, 1]), source)
    found = in_order(data, ["plum", "fig", "pear"])
    assert found.class_names == ("plum", "fig", "pear")
    assert [found.class_names[label] for label in found.labels] == ["plum", "fig", "pear"]
    with pytest.raises(DataError, match="fruit has other classes than are told apart, such as lime, plum"):
        in_order(data, ["fig", "lime", "pear"])
