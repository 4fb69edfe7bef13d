"""The facade: preprocessing, zero-shot logits, text encoding."""

import open_clip
import pytest
import torch
from PIL import Image

import clip_decomp
from clip_decomp.errors import SettingError
from clip_decomp.zeroshot import class_vectors, predict


@pytest.fixture(scope="module")
def model():
    return clip_decomp.load("world/clean")


def test_preprocess_is_open_clips_own(model):
    image = Image.effect_mandelbrot((90, 64), (-2, -1, 1, 1), 50).convert("RGB")
    own = open_clip.image_transform(64, is_train=False, mean=model.mean, std=model.std)
    assert torch.allclose(model.preprocess(image), own(image), atol=0.03)


def test_zero_shot_agrees_with_nearest_class_vectors(model):
    data = clip_decomp.open_data("world", 64, test=60).test
    pixels, labels = data.load()
    images = model.normalize(pixels.float() / 255)
    with torch.no_grad():
        logits = model.zero_shot(images, data.class_names, data.templates)
        features = model.encode_image(images)
    guesses = predict(features, class_vectors(model, data.class_names, data.templates))
    assert torch.equal(logits.argmax(1), guesses)
    assert (guesses == labels).float().mean() > 0.9


def test_text_features_take_strings_and_tokens(model):
    texts = ["a photo of a banana.", "a photo of a key."]
    assert torch.equal(model.encode_text(texts), model.encode_text(model.tokenizer(texts)))
    assert torch.allclose(model.encode_text(texts, normalize=True).norm(dim=1), torch.ones(2))
    with pytest.raises(SettingError, match="no texts"):
        model.encode_text([])


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_without_one_place_for_the_name_is_refused(model, template):
    with pytest.raises(SettingError, match="exactly one"):
        class_vectors(model, ["banana"], [template])
