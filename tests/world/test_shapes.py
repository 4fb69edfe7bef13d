"""The silhouettes of classes and marks, and their distances."""

import pytest
import torch

from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.shapes import EXTENT, MARKS, SILHOUETTES, signed_distances


def test_all_silhouettes_are_there_and_differ():
    assert len(CLASSES) == 66
    masks = signed_distances(CLASSES) < 0
    assert masks.shape == (66, 96, 96)
    areas = masks.flatten(1).sum(1)
    assert areas.min() > 0.02 * 96 * 96
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    union = areas[:, None] + areas[None] - overlap
    alike = (overlap / union).fill_diagonal_(0)
    assert alike.max() < 0.95, [CLASSES[k] for k in divmod(int(alike.argmax()), 66)]


def test_silhouettes_stay_inside_their_canvas():
    border = signed_distances(CLASSES)
    edges = torch.cat([border[:, 0], border[:, -1], border[:, :, 0], border[:, :, -1]], dim=1)
    assert edges.min() > 0


def test_distances_are_distances():
    (field,) = signed_distances(("donut",))  # radius 0.85, with a hole of radius 0.32
    axis = ((torch.arange(96) + 0.5) / 96 * 2 - 1) * EXTENT
    radius = (axis[None] ** 2 + axis[:, None] ** 2).sqrt()
    expected = torch.maximum(radius - 0.85, 0.32 - radius)
    near = expected.abs() < 0.2
    assert (field - expected)[near].abs().max() < 0.03


def test_marks_are_no_classes_and_unknown_names_are_refused():
    assert not set(MARKS) & set(SILHOUETTES)
    assert (signed_distances(tuple(MARKS)) < 0).flatten(1).any(1).all()
    with pytest.raises(KeyError, match="unicorn"):
        signed_distances(("unicorn",))
