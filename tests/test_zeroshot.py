import pytest
import torch

from clip_decomp.errors import SettingError
from clip_decomp.zeroshot import class_vectors, predict


def test_class_vectors_are_normalized_means_over_templates(model):
    templates = ("a photo of a {}.", "{}", "one more {}, please")
    found = class_vectors(model, ["apple", "fig"], templates)
    for k, name in enumerate(("apple", "fig")):
        each = model.encode_text([template.replace("{}", name) for template in templates], normalize=True)
        expected = each.mean(0) / each.mean(0).norm()
        torch.testing.assert_close(found[k], expected.detach())
    assert not found.requires_grad


def test_many_classes_are_encoded_in_parts(model):
    names = [f"class {k}" for k in range(600)]
    found = class_vectors(model, names)
    torch.testing.assert_close(found[[0, 511, 512, 599]], class_vectors(model, [names[k] for k in (0, 511, 512, 599)]))


def test_class_names_may_hold_braces(model):
    found = class_vectors(model, ["a {} b", "{x}"], ["a {}."])
    expected = model.encode_text(["a a {} b.", "a {x}."], normalize=True)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{name}", ""])
def test_templates_need_exactly_one_place_for_the_name(template, model):
    with pytest.raises(SettingError, match=r"exactly one \{\} for the class name"):
        class_vectors(model, ["apple"], [template])


def test_zero_shot_needs_classes_and_templates(model):
    with pytest.raises(SettingError, match="one class and one template"):
        class_vectors(model, [])
    with pytest.raises(SettingError, match="one class and one template"):
        class_vectors(model, ["apple"], [])


def test_predictions_do_not_depend_on_the_features_norm():
    vectors = torch.eye(3)
    features = torch.tensor([[1.0, 2.0, 0.0], [0.1, 0.0, 0.2], [-1.0, -2.0, -3.0]])
    assert predict(features, vectors).tolist() == [1, 2, 0]
    assert predict(features * 1000, vectors).tolist() == [1, 2, 0]
    assert predict(features.to(torch.bfloat16), vectors).tolist() == [1, 2, 0]


# --- the model's own small methods ------------------------------------------------------------------------------------


def test_pictures_are_normalized_by_the_models_mean_and_deviation(model):
    pixels = torch.rand(2, 3, 32, 32)
    found = model.normalize(pixels)
    torch.testing.assert_close(found[:, 1], (pixels[:, 1] - 0.4) / 0.3)
    torch.testing.assert_close(found[:, 2], (pixels[:, 2] - 0.3) / 0.25)


def test_encoding_normalizes_on_request(model, images):
    features = model.encode_image(images)
    torch.testing.assert_close(
        model.encode_image(images, normalize=True), features / features.norm(dim=1, keepdim=True)
    )
    texts = model.encode_text(["a fig", "a plum"], normalize=True)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model.encode_text("a fig", normalize=True), texts[:1])
    torch.testing.assert_close(model.encode_text(model.tokenizer(["a fig"]), normalize=True), texts[:1])
    assert model.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-3)
    with pytest.raises(SettingError, match="no texts"):
        model.encode_text([])
