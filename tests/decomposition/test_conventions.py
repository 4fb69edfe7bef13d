"""The exact convention and the paper's."""

import pytest
import torch

from clip_decomp.convention import EXACT, PAPER, Convention, convention
from clip_decomp.decompose import decompose
from clip_decomp.errors import SettingError
from clip_decomp.models.hooked_vit import HookedViT


def test_paper_convention_leaves_no_bias_and_divides_by_the_norm(clip, images, gap):
    tower = HookedViT(clip.visual)
    exact, paper = decompose(tower, images), decompose(tower, images, convention_name="paper")
    assert paper.convention is PAPER
    assert torch.count_nonzero(paper.bias) == 0
    assert gap(paper.sum(), exact.sum(normalize=True)) < 1e-5


def test_conventions_can_be_spread_without_dividing(model, images, gap):
    mixed = Convention("mixed", spread=True, divide_by_norm=False, embedding_is_mlp=False, asr_includes_target=False)
    exact, dec, paper = (model.decompose(images, convention=rule) for rule in ("exact", mixed, "paper"))
    assert gap(dec.sum(), exact.sum()) < 1e-5
    torch.testing.assert_close(dec.heads / dec.norm[:, None, None, None], paper.heads, rtol=1e-4, atol=1e-6)


def test_unknown_convention_is_refused(model, images):
    with pytest.raises(SettingError, match=r"'gandelsman'.*'exact' or 'paper'"):
        model.decompose(images, convention="gandelsman")
    assert convention("paper") is PAPER
    assert convention(EXACT) is EXACT
