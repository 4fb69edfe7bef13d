"""Exports of defended models: other libraries give the defended model's outputs, and repairs come back from files."""

import importlib.util
import json

import open_clip
import pytest
import torch
from transformers import CLIPModel

import clip_decomp
from clip_decomp.errors import ModelError
from clip_decomp.models.loading import save_folder
from defenses import DecompRep, DecompRepTotal, FineTune
from defenses.exporting import export
from defenses.exporting.checks import compared
from defenses.exporting.graph import Graph, answers
from defenses.exporting.heads import head_of

from . import exporting
from .exporting import MADE, NAMES, prompted, relative

make, model, mixed = exporting.make, exporting.model, exporting.mixed  # fixtures


@pytest.mark.parametrize("kind", MADE)
def test_the_graph_computes_what_the_defense_does(kind, model, mixed):
    """Traced with a free batch size, as an ONNX file is: what cannot be traced fails here."""
    defended = MADE[kind](model)
    names = None if kind in ("cbpt", "probe") else NAMES
    head = head_of(defended, names, ["a photo of a {}."])
    graph = Graph(defended, head).eval()
    with torch.no_grad():
        free = ({0: torch.export.Dim("batch", min=1)},)
        traced = torch.export.export(graph, (mixed[:2],), dynamic_shapes=free, strict=False).module()
        found = dict(zip(graph.names, traced(mixed), strict=True))
        alone = traced(mixed[-1:])
        expected = answers(defended, model.normalize(mixed), head)
        assert max(compared(expected, found).values()) < 1e-5
        assert torch.allclose(alone[0][0], found["features"][-1], atol=1e-4, equal_nan=True)
        plain = model.encode_image(model.normalize(mixed))
    if kind in ("reject", "repair", "flag", "auto"):
        assert 0 < found["flagged"].sum() < len(mixed)
    if kind == "reject":
        assert found["logits"][found["flagged"]].isnan().all()
    elif kind not in ("model", "flag", "cbpt", "probe"):
        assert relative(found["features"], plain) > 1e-3


@pytest.mark.parametrize(
    "kind", ["reject", *(pytest.param(name, marks=pytest.mark.slow) for name in ("repair", "rvpt"))]
)
def test_onnx_runs_without_this_package(kind, model, mixed, tmp_path):
    import onnxruntime

    defended = MADE[kind](model)
    done = export(defended, tmp_path / "out", "onnx", mixed, NAMES)
    assert done.largest < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    names = [each.name for each in session.get_outputs()]
    for count in (1, 7):
        found = dict(zip(names, session.run(names, {"pixels": mixed[-count:].numpy()}), strict=True))
        with torch.no_grad():
            expected = defended.encode_image(model.normalize(mixed[-count:]))
        torch.testing.assert_close(torch.from_numpy(found["features"]), expected, rtol=1e-4, atol=1e-4, equal_nan=True)
        assert found["logits"].shape == (count, 4)
        if kind != "rvpt":
            verdict = defended(model.normalize(mixed[-count:]))
            assert found["flagged"].tolist() == verdict.flagged.tolist()
            assert torch.equal(torch.from_numpy(found["p_value"]), verdict.p_values)
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert card["class_names"] == NAMES
    assert card["outputs"] == names or set(card["outputs"]) == set(names)
    assert (card["checked"]["images"], card["checked"]["flagged"]) == (10, done.flagged)


def test_prompts_go_beside_the_weights_with_a_loader_that_needs_nothing(model, mixed, tmp_path):
    defended = prompted(model)
    with torch.no_grad():
        images = model.normalize(mixed)
        expected, plain = defended.encode_image(images), model.encode_image(images)
    for form in ("open-clip", "hugging-face"):
        out = tmp_path / form
        assert export(defended, out, form, mixed).largest < 1e-4
        spec = importlib.util.spec_from_file_location("prompted", out / "prompted.py")
        loader = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loader)
        if form == "open-clip":
            clip = open_clip.create_model(f"local-dir:{out}").eval()
            blocks, encode = clip.visual.transformer.resblocks, clip.encode_image
        else:
            clip = CLIPModel.from_pretrained(out).eval()
            blocks = clip.vision_model.encoder.layers

            def encode(images, clip=clip):
                return clip.get_image_features(pixel_values=images).pooler_output

        with torch.no_grad():
            assert relative(encode(images), plain) < 1e-4  # weights alone are the undefended model
            handles = loader.attach(blocks, out / "prompts")
            assert relative(encode(images), expected) < 1e-4
            assert relative(expected, plain) > 1e-2
            for each in handles:
                each.remove()
            assert relative(encode(images), plain) < 1e-4
        assert "undefended" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", ["cbpt", "probe"])
def test_classes_go_beside_the_weights(kind, model, mixed, tmp_path):
    from safetensors.torch import load_file

    defended = MADE[kind](model)
    done = export(defended, tmp_path / "out", "open-clip", mixed)
    assert set(done.differences) == {"features", "logits"}
    clip = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    tensors = load_file(tmp_path / "out" / "classifier.safetensors")
    assert json.loads((tmp_path / "out" / "classifier.json").read_text())["class_names"] == NAMES
    with torch.no_grad():
        images = model.normalize(mixed)
        unit = torch.nn.functional.normalize(clip.encode_image(images), dim=-1)
        logits = unit @ tensors["weight"].T + tensors["bias"]
        if kind == "probe":
            assert relative(logits, defended.classify(images)) < 1e-4
        else:
            own = model.encode_image(images, normalize=True) @ defended.class_vectors().T
            assert relative(logits, model.logit_scale * own) < 1e-4
            assert torch.equal(tensors["class_vectors"], defended.class_vectors())


def test_a_fine_tuned_model_is_plain_weights(model, mixed, make, tmp_path):
    defended = FineTune(pairs=4, epochs=1, batch_size=2)
    defended.model_, defended.tuned_ = model, make(seed=2)
    assert export(defended, tmp_path / "out", "hugging-face", mixed).largest < 1e-4
    clip = CLIPModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        images = model.normalize(mixed)
        found = clip.get_image_features(pixel_values=images).pooler_output
        assert relative(found, defended.encode_image(images)) < 1e-4
        assert relative(found, model.encode_image(images)) > 0.1


@pytest.mark.parametrize("kind", ["heads", "mlps", "auto", "total"])
def test_a_repair_comes_back_from_its_file(kind, model, make, mixed, tmp_path):
    defended = MADE[kind](model)
    defended.save(tmp_path)
    again = type(defended).load(tmp_path, model)
    images = model.normalize(mixed)
    with torch.no_grad():
        assert torch.allclose(again.encode_image(images), defended.encode_image(images), atol=1e-6)
    other = DecompRepTotal if kind != "total" else DecompRep
    with pytest.raises(ModelError, match="effect"):
        other.load(tmp_path, model)
    with pytest.raises(ModelError, match="another image tower"):
        type(defended).load(tmp_path, make(seed=5))
    weights = (tmp_path / "repair.safetensors").read_bytes()
    (tmp_path / "repair.safetensors").write_bytes(weights[:100])
    with pytest.raises(ModelError, match="holds no Decomp-Rep"):
        type(defended).load(tmp_path, model)
    (tmp_path / "repair.json").unlink()
    with pytest.raises(ModelError, match="holds no Decomp-Rep"):
        type(defended).load(tmp_path, model)


def test_from_the_command_line(succeed, model, make, tmp_path):
    save_folder(model, tmp_path / "tiny", model.card, half=False)
    loaded = clip_decomp.load(tmp_path / "tiny")
    prompted(loaded).save(tmp_path / "prompts")
    MADE["heads"](loaded).save(tmp_path / "repair")
    command = ["export", "--model", tmp_path / "tiny", "--out", tmp_path / "out"]
    printed = succeed(*command, "--rvpt", tmp_path / "prompts", "--format", "open-clip", "--json")
    found = json.loads(printed)
    assert (found["settings"]["defense"], found["counts"]["images"]) == ("rvpt", 12)
    assert 0 <= found["metrics"]["unknown/clean/rvpt/difference;output=features"] < 1e-4
    assert (tmp_path / "out" / "prompts" / "prompts.safetensors").is_file()
    both = ["--rvpt", tmp_path / "prompts", "--decomp-rep", tmp_path / "repair"]
    assert "One defense" in succeed(*command, *both, code=1)
    repair = ["--decomp-rep", tmp_path / "repair", "--format", "hugging-face"]
    assert "export it as onnx" in succeed(*command, *repair, code=1)
    assert "holds no guard" in succeed(*command, "--guard", tmp_path / "nothing", code=1)
    assert (tmp_path / "out" / "prompts" / "prompts.safetensors").is_file()  # the earlier export is still whole
