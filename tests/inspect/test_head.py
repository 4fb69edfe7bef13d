"""A head by itself: its contributions and token maps are those of the decomposition."""

import pytest
import torch

from clip_decomp.errors import SettingError


def test_contributions_and_token_maps_are_those_of_the_decomposition(model, images):
    head = model.head(1, 2)
    dec = model.decompose(images, tokens=True)
    texts = torch.randn(5, 24, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(head.contributions(images), dec.heads[:, 1, 2])
    found = head.token_map(images, texts)
    assert found.shape == (3, 17, 5)
    torch.testing.assert_close(found, dec.tokens(1, 2) @ texts.T)
    torch.testing.assert_close(found.sum(1), dec.toward(texts)[:, 1, 2])


def test_places_count_from_the_end_too(model):
    assert (model.head(-1, -4).name, model.head(0, 3).name) == ("L2H0", "L0H3")
    assert model.head(-1, 1) == model.head(2, 1)


@pytest.mark.parametrize("place", [(3, 0), (-4, 0), (0, 4), (0, -5)])
def test_a_head_that_is_not_there_is_named_with_the_towers_sizes(model, place):
    with pytest.raises(SettingError, match=rf"L{place[0]}H{place[1]}: this tower has 3 layers of 4 heads"):
        model.head(*place)
