"""OpenAI's TorchScript archives: weights come out, the program never runs."""

import io
import pickle
import warnings
import zipfile

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from clip_decomp.errors import ModelError
from clip_decomp.models.loading import load, read_state_dict
from clip_decomp.models.loading.programs import is_program, read_program

TEXTS = torch.tensor([[1, 2, 9, 0], [3, 9, 0, 0]])


class Shell(torch.nn.Module):
    """As OpenAI's archives are: the towers, and the sizes as buffers."""

    def __init__(self, clip, size):
        super().__init__()
        self.visual, self.transformer, self.token_embedding = clip.visual, clip.transformer, clip.token_embedding
        self.ln_final = clip.ln_final
        self.positional_embedding, self.text_projection = clip.positional_embedding, clip.text_projection
        self.logit_scale = clip.logit_scale
        for name, value in (("input_resolution", size), ("context_length", 4), ("vocab_size", 10)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, images):
        return self.visual(images)


@pytest.fixture
def openai(randomize):
    """A tiny CLIP in half precision as OpenAI would build it, with its archive."""

    def make(file, quick_gelu=True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vision = CLIPVisionCfg(layers=2, width=64, image_size=32, patch_size=16)
            text = CLIPTextCfg(context_length=4, vocab_size=10, width=64, heads=1, layers=1)
            clip = randomize(CLIP(8, vision, text, quick_gelu=quick_gelu))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's files stay
            torch.jit.trace(Shell(clip, 32).eval(), torch.zeros(1, 3, 32, 32)).save(str(file))
        return clip

    return make


def rewritten(source, target, change):
    """A copy of an archive with other contents of some members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)


@pytest.mark.parametrize("quick", [True, False])
def test_an_archive_alone_is_a_model(quick, openai, picture, tmp_path):
    clip = openai(tmp_path / "tiny.pt", quick)
    assert is_program(tmp_path / "tiny.pt")
    model = load(tmp_path / "tiny.pt")
    torch.testing.assert_close(model.encode_image(picture), clip.encode_image(picture))
    torch.testing.assert_close(model.encode_text(TEXTS), clip.encode_text(TEXTS))
    assert model.mean == open_clip.OPENAI_DATASET_MEAN
    assert model.name == "tiny"
    said, asked = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    with pytest.raises(ModelError, match=rf"tiny\.pt says {said}, but quick_gelu={not quick} says {asked}"):
        load(tmp_path / "tiny.pt", quick_gelu=not quick)


def test_an_archive_fills_a_named_architecture_and_says_its_activation(openai, picture, tmp_path, monkeypatch):
    clip = openai(tmp_path / "tiny.pt")
    sizes = {"width": 64, "layers": 1, "heads": 1, "context_length": 4, "vocab_size": 10}
    vision = {"layers": 2, "width": 64, "image_size": 32, "patch_size": 16}
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "ours", {"embed_dim": 8, "vision_cfg": vision, "text_cfg": sizes}
    )
    for model in (load("ours", pretrained=tmp_path / "tiny.pt"), load(tmp_path / "tiny.pt")):
        torch.testing.assert_close(model.encode_image(picture), clip.encode_image(picture))
        assert model.name == "ours"
    with pytest.raises(ModelError, match=r"in .*tiny\.pt says QuickGELU, but quick_gelu=False says GELU"):
        load("ours", pretrained=tmp_path / "tiny.pt", quick_gelu=False)


def test_a_plain_file_alone_needs_shapes_of_one_known_name(arch, state, named, picture, tmp_path, same_features):
    torch.save(state, tmp_path / "w.pt")
    model = load(tmp_path / "w.pt")
    assert model.name == arch
    assert same_features(model, named, picture)
    state["visual.proj"] = torch.zeros(32, 15)
    state["text_projection"] = torch.zeros(8, 15)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"say which architecture it has, load\(NAME, pretrained=.*no architecture"):
        load(tmp_path / "w.pt")


def test_names_and_types_of_tensors_are_kept(openai, tmp_path):
    clip = openai(tmp_path / "tiny.pt").half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Sequential(torch.nn.BatchNorm1d(3))).save(str(tmp_path / "norm.pt"))
    assert set(clip.state_dict()) <= set(read_state_dict(tmp_path / "tiny.pt"))
    found = read_program(tmp_path / "norm.pt")
    assert found.tensors["0.num_batches_tracked"].dtype == torch.int64
    assert found.quick_gelu is None


class Bomb:
    def __reduce__(self):
        return open, ("it-ran", "w")


def test_code_in_an_archive_never_runs(openai, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    openai(tmp_path / "tiny.pt")
    rewritten("tiny.pt", "evil.pt", lambda name, data: pickle.dumps(Bomb()) if name.endswith("data.pkl") else data)
    with pytest.raises(ModelError, match=r"evil\.pt: a TorchScript archive that holds no state dict"):
        load("evil.pt")
    rewritten("tiny.pt", "code.pt", lambda name, data: b"import this is no program" if name.endswith(".py") else data)
    assert set(read_program(tmp_path / "code.pt").tensors) == set(read_program(tmp_path / "tiny.pt").tensors)
    assert not (tmp_path / "it-ran").exists()
    pickle.load(io.BytesIO(pickle.dumps(Bomb()))).close()  # the bomb does what the test says it does
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: None if "/data/" in name else data, "no item named"),
        (lambda name, data: data[: len(data) // 2] if "/data/" in name else data, "larger than its"),
        (lambda name, data: data[: len(data) // 2] if name.endswith("data.pkl") else data, "not a readable checkpoint"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "not little-endian"),
        (lambda name, data: None if name.endswith("/data.pkl") else data, "not a readable checkpoint"),
    ],
    ids=["no tensors", "short tensors", "short listing", "endian", "no listing"],
)
def test_damaged_archives_are_refused(change, message, openai, tmp_path):
    openai(tmp_path / "tiny.pt")
    rewritten(tmp_path / "tiny.pt", tmp_path / "bad.pt", change)
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "bad.pt")


def test_an_archive_that_is_no_clip_is_refused(arch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(ModelError, match=r"50 keys are missing .* 2 are unknown \(e\.g\. \['bias', 'weight'\]\)"):
        load(arch, pretrained=tmp_path / "program.pt")
    with pytest.raises(ModelError, match="say which architecture it has"):
        load(tmp_path / "program.pt")
