"""Roles that are kept and roles that are changed, by construction."""

import pytest
import torch

from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.roles import compare_roles, text_similarity
from clip_decomp.moments import Moments

TEXTS = torch.eye(6)


def parts(weights, seed, folds=8):
    """Moments of eight parts of data that varies along the axes as the weights say."""
    generator = torch.Generator().manual_seed(seed)
    return [Moments.of(torch.randn(100, 6, generator=generator) * torch.tensor(weights)) for _ in range(folds)]


CLEAN = (5.0, 3.0, 0.1, 0.1, 0.1, 0.1)


def test_text_similarity_by_hand():
    texts = torch.tensor([[1.0, 0], [0, 1.0], [0.6, 0.8], [2.0, 0]])
    assert text_similarity(torch.tensor([0]), torch.tensor([2]), texts) == pytest.approx(0.6)
    # 0 finds 2 (0.6), 1 finds 2 (0.8); 2 finds 1 (0.8): (0.7 + 0.8) / 2.
    assert text_similarity(torch.tensor([0, 1]), torch.tensor([2]), texts) == pytest.approx(0.75)
    # Length does not matter.
    assert text_similarity(torch.tensor([0]), torch.tensor([3]), texts) == pytest.approx(1)


def test_a_role_is_kept_under_a_trigger_that_changes_nothing():
    found = compare_roles(parts(CLEAN, 0), parts(CLEAN, 1), TEXTS, n_texts=2)
    assert (found.changed, found.verdict) == (False, "role kept")
    assert found.similarity == found.kept == found.threshold == 1
    assert found.clean.indices.tolist() == found.triggered.indices.tolist() == [0, 1]


def test_a_role_is_changed_by_a_trigger_that_moves_it():
    found = compare_roles(parts(CLEAN, 0), parts((0.1, 0.1, 0.1, 5.0, 3.0, 0.1), 1), TEXTS, n_texts=2)
    assert (found.changed, found.verdict) == (True, "role changed")
    assert (found.similarity, found.kept) == (0, 1)
    assert found.triggered.indices.tolist() == [3, 4]


def test_a_component_without_a_role_of_its_own_is_not_called_changed():
    # All directions vary alike: which texts come first is chance, with and without the trigger.
    even = (1.0,) * 6
    found = compare_roles(parts(even, 0), parts(even, 1), TEXTS, n_texts=2)
    assert not found.changed
    assert found.kept < 0.9


def test_wrong_parts_are_refused():
    clean = parts(CLEAN, 0)
    for first, second in ((clean[:3], clean[:3]), (clean[:2], clean[:2]), (clean, clean[:6])):
        with pytest.raises(SettingError, match="even number of parts"):
            compare_roles(first, second, TEXTS)
    with pytest.raises(DataError, match="two lists"):
        text_similarity(torch.tensor([], dtype=torch.long), torch.tensor([0]), TEXTS)
