from dataclasses import dataclass

import pytest
import torch

from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, SettingError

NAMES = ("apple", "pear", "plum")


def numbered(count):
    """Pictures that show their own number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()


@pytest.fixture
def data():
    return ImageSet("fruit", NAMES, torch.arange(12) % 3, TensorSource(numbered(12)), target="plum")


@dataclass(frozen=True)
class Broken:
    count: int
    bad: tuple[int, ...]

    def __len__(self):
        return self.count

    def read(self, index):
        if index in self.bad:
            raise DataError(f"picture {index}: not a readable image.")
        return numbered(self.count)[index]


def test_batches_come_in_order_with_labels_and_places(data):
    batches = list(data.batches(5))
    assert [len(batch.images) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch.images for batch in batches]), numbered(12))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.arange(12) % 3)
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(12))


def test_batches_may_be_larger_than_the_data_but_not_empty(data):
    assert len(list(data.batches(1000))) == 1
    for size in (0, -1):
        with pytest.raises(SettingError, match=f"batch size must be 1 or more, not {size}"):
            list(data.batches(size))


def test_subsets_of_subsets(data):
    part = data.subset(torch.tensor([1, 4, 7, 10])).subset(torch.tensor([3, 0]))
    assert len(part) == 2
    images, labels = part.load()
    assert images[:, 0, 0, 0].tolist() == [10, 1]
    assert labels.tolist() == [1, 1]
    assert [batch.indices.tolist() for batch in part.batches()] == [[10, 1]]
    assert (part.target, part.class_names, part.name) == ("plum", NAMES, "fruit")
    assert len(data) == 12
    assert (part.places.tolist(), part.own_labels.tolist()) == ([10, 1], [1, 1])
    assert (data.places.tolist(), data.own_labels.tolist()) == (list(range(12)), [0, 1, 2] * 4)


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_the_first_pictures_are_spread_over_the_set(count, data):
    part = data.first(count)
    assert len(part) == count
    assert len(part.indices.unique()) == count
    assert part.indices[0] == 0
    assert count == 1 or part.indices[-1] == 11


def test_sorted_sets_lose_no_class_by_taking_the_first_pictures():
    labels = torch.arange(3).repeat_interleave(40)
    part = ImageSet("sorted", NAMES, labels, TensorSource(numbered(120))).first(9)
    assert part.load()[1].bincount().tolist() == [3, 3, 3]


def test_taking_more_than_there_is_takes_everything(data):
    assert data.first(None) is data
    assert data.first(12) is data
    assert data.first(100) is data
    for count in (0, -1):
        with pytest.raises(DataError, match=f"cannot take {count} images"):
            data.first(count)


def test_splits_are_disjoint_and_stratified(data):
    for share, expected in ((0.25, 1), (0.5, 2), (0.01, 1)):
        first, rest = data.split(share, seed=1)
        assert first.load()[1].bincount().tolist() == [expected] * 3
        assert sorted([*first.indices.tolist(), *rest.indices.tolist()]) == list(range(12))
    again = data.split(0.5, seed=1)[0]
    assert torch.equal(again.indices, data.split(0.5, seed=1)[0].indices)
    assert any(not torch.equal(again.indices, data.split(0.5, seed=s)[0].indices) for s in range(2, 6))


def test_splits_of_subsets_stay_inside(data):
    part = data.subset(torch.arange(6, 12))
    first, rest = part.split(0.5)
    assert sorted([*first.indices.tolist(), *rest.indices.tolist()]) == [6, 7, 8, 9, 10, 11]


def test_a_split_that_leaves_nothing_is_refused(data):
    with pytest.raises(DataError, match="fruit: 3 images are too few to hold 50% of each class out"):
        data.subset(torch.arange(3)).split(0.5)


def test_unreadable_pictures_are_left_out_and_listed_once():
    data = ImageSet("fruit", NAMES, torch.arange(6) % 3, Broken(6, (0, 4, 5)))
    for _ in range(2):
        batches = list(data.batches(2))
        assert [batch.indices.tolist() for batch in batches] == [[1], [2, 3]]  # the last batch is gone altogether
        assert [batch.labels.tolist() for batch in batches] == [[1], [2, 0]]
    assert data.skipped == [f"picture {k}: not a readable image." for k in (0, 4, 5)]


def test_sets_none_of_whose_pictures_can_be_read(data):
    broken = ImageSet("fruit", NAMES, data.labels, Broken(12, tuple(range(12))))
    with pytest.raises(DataError, match=r"none of the 12 images can be read, e\.g\. picture 0"):
        broken.load()


def test_classes_are_found_by_name(data):
    assert [data.class_index(name) for name in NAMES] == [0, 1, 2]
    with pytest.raises(DataError, match=r"fruit: there is no class 'aple'; did you mean one of \['apple'\]"):
        data.class_index("aple")
    with pytest.raises(DataError, match=r"no class 'xyz'; did you mean one of \['apple', 'pear', 'plum'\]"):
        data.class_index("xyz")


@pytest.mark.parametrize(
    ("names", "labels", "count", "message"),
    [
        (NAMES, [0, 1], 3, "2 labels for 3 images"),
        (NAMES, [], 0, "there are no images in it"),
        (("apple", "pear", "apple", "pear"), [0, 1], 2, r"must differ, but \['apple', 'pear'\] occur more than once"),
        (("apple",), [0, 0], 2, r"needs two classes or more, has \['apple'\]"),
        ((), [0, 0], 2, "needs two classes or more"),
        (NAMES, [0, 3], 2, "label 3 is out of range for 3 classes"),
        (NAMES, [-1, 1], 2, "label -1 is out of range for 3 classes"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(names, labels, count, message):
    with pytest.raises(DataError, match="fruit: .*" + message):
        ImageSet("fruit", names, torch.tensor(labels, dtype=torch.long), TensorSource(numbered(count)))


def test_an_empty_subset_is_refused(data):
    with pytest.raises(DataError, match="there are no images in it"):
        data.subset(torch.tensor([], dtype=torch.long))
