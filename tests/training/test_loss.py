"""The contrastive loss with several positives."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from clip_decomp.training.loss import contrastive_loss


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_with_one_positive_each_it_is_clips_loss():
    images, texts, scale = unit(7, 5), unit(7, 5, seed=1), torch.tensor(14.3)
    found = contrastive_loss(images, texts, scale, torch.eye(7, dtype=torch.bool))
    torch.testing.assert_close(found, ClipLoss()(images, texts, scale))


def test_identical_features_give_the_logarithm_of_the_batch():
    same = unit(1, 4).expand(6, -1)
    found = contrastive_loss(same, same, torch.tensor(20.0), torch.eye(6, dtype=torch.bool))
    assert found.item() == pytest.approx(math.log(6), rel=1e-5)


def test_several_positives_are_a_uniform_target():
    images, texts, scale = unit(4, 8), unit(5, 8, seed=1), torch.tensor(7.0)
    positive = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()
    logits = scale * images @ texts.T
    weights = positive.float()
    rows = F.cross_entropy(logits, weights / weights.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, weights.T / weights.T.sum(1, keepdim=True))
    torch.testing.assert_close(contrastive_loss(images, texts, scale, positive), (rows + columns) / 2)
    everything = torch.ones(4, 4, dtype=torch.bool)
    same = unit(1, 8).expand(4, -1)
    assert contrastive_loss(same, same, scale, everything).item() == pytest.approx(math.log(4), rel=1e-5)


def test_rows_and_columns_without_a_positive_are_left_out():
    images, texts, scale = unit(3, 8), unit(3, 8, seed=1), torch.tensor(7.0)
    positive = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    logits = scale * images @ texts.T
    expected = (F.cross_entropy(logits[:2], torch.arange(2)) + F.cross_entropy(logits.T[:2], torch.arange(2))) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale, positive), expected)


def test_gradients_pull_positives_together():
    images = unit(3, 8).requires_grad_()
    texts = unit(3, 8, seed=1)
    contrastive_loss(images, texts, torch.tensor(5.0), torch.eye(3, dtype=torch.bool)).backward()
    moved = F.normalize(images - 0.1 * images.grad, dim=-1)
    assert ((moved * texts).sum(1) > (images * texts).sum(1)).all()
