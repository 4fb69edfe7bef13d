"""Tiny random models with norms and biases that are not trivial, and tiny data to run them on."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn

from clip_decomp.cli import main
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.model import HookedCLIP
from clip_decomp.tokenizer import BPETokenizer

CLASSES = ("apple", "pear", "plum", "fig")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """On tensors this small, threads cost more than they bring."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Models that someone built on this machine are none of the tests' business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_DECOMP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs ``clip-decomp`` with arguments; returns its exit code and what it printed, errors last."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clip-decomp", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def succeed(call) -> Callable[..., str]:
    """The same for a command that must end with ``code``, 0 unless told otherwise; returns all it printed."""

    def run(*arguments: object, code: int = 0) -> str:
        found, out, err = call(*arguments)
        assert found == code, err
        return out + err

    return run


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference code's numbers."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module], nn.Module]:
    """Give norms and biases random values: freshly built ones are all ones and zeros and would hide mistakes."""

    def apply(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if name.endswith("bias"):
                    parameter.add_(0.3 * noise)
                elif name.endswith("gamma"):
                    parameter.copy_(0.6 + 0.3 * noise)
                elif parameter.ndim == 1 and name.endswith("weight"):
                    parameter.add_(0.3 * noise)
                elif name.endswith("in_proj_weight"):
                    parameter.mul_(3)  # attention that looks somewhere
                elif name.endswith(("c_fc.weight", "c_proj.weight")):
                    parameter.mul_(2)  # MLPs that matter
        return module.eval()

    return apply


@pytest.fixture(scope="session")
def make_clip(randomize, tokenizer) -> Callable[..., CLIP]:
    """Builds a tiny open_clip ``CLIP``: 32 x 32 pixels, 17 tokens, 3 layers of 4 heads unless told otherwise."""

    def build(quick_gelu: bool = False, embed_dim: int = 24, cast_dtype: torch.dtype | None = None, **vision) -> CLIP:
        shape = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8, **vision}
        text = {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 16, "heads": 2, "layers": 1}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            clip = CLIP(
                embed_dim, CLIPVisionCfg(**shape), CLIPTextCfg(**text), quick_gelu=quick_gelu, cast_dtype=cast_dtype
            )
        return randomize(clip)

    return build


@pytest.fixture(scope="session")
def tokenizer() -> BPETokenizer:
    """Knows the words of the tiny data."""
    texts = [f"a photo of a {name}." for name in CLASSES]
    return BPETokenizer.train(texts, vocab_size=300, context_length=16)


@pytest.fixture
def model(make_clip, tokenizer) -> HookedCLIP:
    """A tiny hooked CLIP."""
    return HookedCLIP(make_clip(), tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), name="tiny")


@pytest.fixture
def images() -> torch.Tensor:
    """Three normalized pictures for the tiny model."""
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def toy() -> ImageSet:
    """Twenty-four random pictures of four classes; the target is ``fig``."""
    pixels = torch.randint(256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return ImageSet("toy", CLASSES, torch.arange(24) % 4, TensorSource(pixels), target="fig")


@pytest.fixture
def unchanged() -> Callable[[nn.Module], Callable[[], bool]]:
    """``check = unchanged(module)`` remembers every weight; ``check()`` says whether they are still the same."""

    def remember(module: nn.Module) -> Callable[[], bool]:
        before = copy.deepcopy(module.state_dict())

        def check() -> bool:
            after = module.state_dict()
            return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)

        return check

    return remember
