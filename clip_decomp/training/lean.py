"""Half the precision where that is faster, and on a CPU attention that is not fused.

CPUs without instructions for bfloat16 (those that know AVX2 alone) emulate its products at a fiftieth of fp32's speed:
there everything is computed in fp32. The fused attention's backward pass takes more than half of a training step of a
tiny tower on a CPU; plain products make the whole step twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def lean(device: torch.device, bf16: bool = True) -> Iterator[None]:
    """Autocast to bfloat16 (if asked for, and the device multiplies it natively) with the fastest attention for small
    heads.
    """
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    # Despite its name the switch concerns CPUs, too: products of bfloat16 are not turned into fp32 first.
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16 and multiplies_bfloat16(device)), plain:
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16; emulated ones are far slower than fp32's."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
