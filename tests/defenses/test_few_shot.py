"""What a defense may learn from: the training part, or what is held out, and nothing that is measured on."""

import torch
from PIL import Image

from clip_decomp.data import open_data
from defenses.few_shot import training_pictures


def test_of_a_folder_held_out_pictures_are_tuned_on_or_all_where_nothing_is_measured(tmp_path):
    for number in range(20):
        place = tmp_path / ("pear" if number % 2 else "fig")
        place.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number, 0, 0)).save(place / f"{number:02}.png")
    spec = str(tmp_path)
    test, some, every = open_data(spec, 32).test, training_pictures(spec, 32), training_pictures(spec, 32, whole=True)
    assert (len(test), len(some), len(every)) == (16, 4, 20)
    assert not set(test.indices.tolist()) & set(some.indices.tolist())
    assert torch.equal(every.indices, torch.arange(20))
    assert every.class_names == ("fig", "pear")
    assert training_pictures(spec, 32, template="no {}").templates == ("no {}",)


def test_where_there_are_training_pictures_they_alone_are_tuned_on():
    whole, own = training_pictures("world", 64, shots=1, whole=True), open_data("world", 64, train=4000).train
    assert len(whole) == len(own) == 4000
