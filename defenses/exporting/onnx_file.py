"""ONNX: a graph traced by ``torch.export``, for a batch of any size, and run by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.errors import ModelError, SettingError

from .graph import Graph

#: Of the operators; ``LayerNormalization`` and everything else that a guard needs are in it.
OPSET = 20


def require_onnx() -> None:
    """Refuse to begin without the libraries, with a SettingError that names them."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(name) is None:
            raise SettingError(f"ONNX needs {name}, which is not installed: pip install onnx onnxscript onnxruntime.")


def write_onnx(graph: Graph, file: Path, side: int) -> None:
    """Write a graph; its input is ``pixels``, its outputs are named as the graph names them.

    Raises:
        SettingError: a library is missing.
        ModelError: torch cannot trace or translate the graph.
    """
    require_onnx()
    example = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    example = example.to(next(graph.tower.parameters()).device)
    level = logging.getLogger("torch.onnx").level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own; the outcome is checked
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            # Traced here, so that a dimension that cannot vary is an error and not a constant.
            traced = torch.export.export(
                graph.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
            program = torch.onnx.export(
                traced, (), dynamo=True, input_names=["pixels"], output_names=graph.names, opset_version=OPSET,
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever the tracer raises on a tower that it does not know
        raise ModelError(
            f"This model cannot be written as ONNX ({type(error).__name__}: {str(error)[:300]})."
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    program.save(str(file))


def run_onnx(file: Path, pixels: Float[Tensor, "image 3 row column"]) -> dict[str, Tensor]:
    """What onnxruntime makes of pixels on the CPU: of one, and of all others together."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    parts = [pixels[:1], pixels[1:]] if len(pixels) > 1 else [pixels]
    found = [session.run(names, {"pixels": part.float().cpu().numpy()}) for part in parts]
    return {
        name: torch.cat([torch.from_numpy(each) for each in outputs])
        for name, outputs in zip(names, zip(*found, strict=True), strict=True)
    }
