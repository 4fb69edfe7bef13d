"""Half the precision only where the device multiplies it natively."""

import pytest
import torch

from clip_decomp.training import lean as module
from clip_decomp.training.lean import lean

CPU = torch.device("cpu")


@pytest.mark.parametrize(("native", "asked", "expected"), [(True, True, torch.bfloat16), (False, True, torch.float32)])
def test_bfloat16_is_used_where_it_is_native(native, asked, expected, monkeypatch):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: native)
    with lean(CPU, asked):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_without_bfloat16_everything_stays_in_fp32(monkeypatch):
    monkeypatch.setattr(module, "multiplies_bfloat16", lambda device: True)
    with lean(CPU, bf16=False):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_settings_of_attention_are_restored_after_an_exception():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()

    def fail() -> None:
        with lean(CPU):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed(),
    ) == before
