"""What is not exported: what no weights hold, what differs, or over folders of others; nothing is left behind."""

import pytest
import torch

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.training.architecture import Architecture
from defenses import DecompRep
from defenses.exporting import export, onnx_file
from defenses.exporting.checks import compared
from defenses.exporting.graph import answers

from . import exporting
from .exporting import MADE, NAMES, SIZES, clean, probe

make, model, mixed = exporting.make, exporting.model, exporting.mixed  # fixtures

RESNET = Architecture(**{**SIZES.to_dict(), "layers": (1, 1, 1, 1), "width": 4, "heads": 2})


def test_what_is_no_weights_says_so_and_writes_nothing(model, make, mixed, tmp_path, monkeypatch):
    for kind in ("heads", "total", "flag"):
        with pytest.raises(SettingError, match="export it as onnx"):
            export(MADE[kind](model), tmp_path / "out", "open-clip", mixed)
    for random in (DecompRep(heads=2), DecompRep(replacement="random")):
        with pytest.raises(SettingError, match="no function of the image"):
            export(random.fit(model, clean(model)), tmp_path / "out", "onnx", mixed)
    with pytest.raises(ModelError, match="ResNet"):
        export(make(RESNET), tmp_path / "out", "hugging-face", mixed)
    with pytest.raises(SettingError, match="own 4 classes"):
        export(probe(model), tmp_path / "out", "onnx", mixed, NAMES)
    with pytest.raises(SettingError, match="ONNX alone"):
        export(model, tmp_path / "out", "open-clip", mixed, NAMES)
    with pytest.raises(SettingError, match="'gguf'"):
        export(model, tmp_path / "out", "gguf", mixed)
    with pytest.raises(SettingError, match="one picture"):
        export(model, tmp_path / "out", "open-clip", mixed[:0])
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="pip install onnx onnxscript onnxruntime"):
        export(model, tmp_path / "out", "onnx", mixed)
    assert not list(tmp_path.iterdir())


def test_other_outputs_are_noticed_and_not_written(model, mixed, tmp_path, monkeypatch):
    def wrong(graph, file, side):
        file.write_bytes(b"")

    found = answers(model, model.normalize(mixed))
    monkeypatch.setattr(onnx_file, "write_onnx", wrong)
    monkeypatch.setattr(onnx_file, "run_onnx", lambda file, pixels: {"features": 1.001 * found["features"]})
    with pytest.raises(ModelError, match=r"features by 0\.001"):
        export(model, tmp_path / "out", "onnx", mixed)
    monkeypatch.setattr(onnx_file, "run_onnx", lambda file, pixels: {"other": found["features"]})
    with pytest.raises(ModelError, match="other"):
        export(model, tmp_path / "out", "onnx", mixed)
    assert not list(tmp_path.iterdir())
    nan = torch.tensor([[1.0], [torch.nan]])
    assert compared({"features": nan}, {"features": nan}) == {"features": 0.0}
    for flags, others in (([True, False], [True, True]), ([True], [True, True])):
        with pytest.raises(ModelError):
            compared({"flagged": torch.tensor(flags)}, {"flagged": torch.tensor(others)})
    with pytest.raises(ModelError, match="inf"):
        compared({"features": nan}, {"features": torch.ones(2, 1)})


def test_pictures_that_set_the_threshold_are_left_out_of_the_comparison(model, mixed, tmp_path, monkeypatch):
    guard = MADE["flag"](model)
    images = clean(model)
    tied = (guard.score(images)[:, None] - guard.reference).abs().min(1).values < 1e-6
    assert tied.sum() >= 60  # half of them set the threshold

    def shifted(file, pixels):  # what another rounding does
        found = answers(guard, model.normalize(pixels))
        score = found["score"] + 1e-6
        p_values = guard.p_values(score)
        return {**found, "score": score, "p_value": p_values, "flagged": p_values <= guard.false_positive_rate}

    monkeypatch.setattr(onnx_file, "write_onnx", lambda graph, file, side: file.write_bytes(b""))
    monkeypatch.setattr(onnx_file, "run_onnx", shifted)
    done = export(guard, tmp_path / "out", "onnx", torch.cat([model.denormalize(images), mixed]))
    assert 10 <= done.images <= 130 - tied.sum()
    with pytest.raises(SettingError, match="set the guard's threshold"):
        export(guard, tmp_path / "out", "onnx", model.denormalize(images[tied]))


def test_only_an_earlier_export_is_replaced(model, mixed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(SettingError, match="something other than an export"):
        export(model, out, "open-clip", mixed)
    assert (out / "thesis.txt").read_text() == "mine"
    (out / "thesis.txt").unlink()
    export(model, out, "open-clip", mixed)
    export(model, out, "hugging-face", mixed)
    assert not (out / "open_clip_config.json").exists()
    with pytest.raises(SettingError, match="is a file"):
        export(model, out / "README.md", "open-clip", mixed)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
