import pytest
import torch

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.texts import TextPool, encode_pool

POOL = TextPool(tuple(f"a photo of {number} pears" for number in range(7)), ("count",) * 7)


def test_unit_features_of_every_text(model):
    features = encode_pool(model, POOL, batch_size=3)
    assert features.shape == (7, 24)
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=-1), torch.ones(7))
    for text, feature in zip(POOL.texts, features, strict=True):
        assert torch.allclose(feature, model.encode_text(text, normalize=True)[0], atol=1e-6)


def test_the_batch_size_does_not_matter(model):
    assert torch.allclose(encode_pool(model, POOL, 1), encode_pool(model, POOL, 100), atol=1e-6)


def test_nothing_is_changed_and_nothing_is_tracked(model, unchanged):
    check = unchanged(model.clip)
    assert not encode_pool(model, POOL).requires_grad
    assert torch.is_grad_enabled()
    assert check()


def test_half_precision():
    class Half:
        def encode_text(self, texts):
            return torch.ones(len(texts), 4, dtype=torch.float16)

    assert torch.equal(encode_pool(Half(), POOL), torch.full((7, 4), 0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_features_without_a_direction(value):
    class Broken:
        def encode_text(self, texts):
            features = torch.ones(len(texts), 4)
            features[[text == POOL.texts[4] for text in texts]] = value
            return features

    with pytest.raises(ModelError, match="'a photo of 4 pears' have norm"):
        encode_pool(Broken(), POOL, batch_size=2)


def test_bad_batch_size(model):
    with pytest.raises(SettingError, match="must be 1 or more, not 0"):
        encode_pool(model, POOL, 0)
