"""OpenVINO's `.xml` files, with the weights in a `.bin` file beside."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tracing import MAX_BATCH
from . import Run, onnx_file


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """A pair of files that refuses sizes outside its range, with weights in float32.

    OpenVINO reads the program as ONNX: what it makes of a `torch.export` program is slower, and has no rule for some
    open sizes.
    """
    import openvino  # pyright: ignore[reportMissingImports]

    model = openvino.Core().read_model(onnx_file.model_of(program, about, refuses=False).SerializeToString())
    smallest, largest = about["sizes"]["smallest"], about["sizes"]["largest"]
    (shape,) = (put.partial_shape for put in model.inputs)
    batch = openvino.Dimension(1, MAX_BATCH) if about["batch"] is None else openvino.Dimension(about["batch"])
    sides = [openvino.Dimension(least, most) for least, most in zip(smallest, largest, strict=True)]
    model.reshape({"images": openvino.PartialShape([batch, shape[1], *sides])})
    model.set_rt_info(json.dumps(about), "sgformer")
    openvino.save_model(model, str(path), compress_to_fp16=False)


def open_file(path: Path, threads: int) -> Run:
    """The file in OpenVINO on the CPU, told to compute in float32: by itself it takes bfloat16 where there is some."""
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(str(path)), "CPU", options)

    def run(x: Tensor) -> Sequence[Tensor]:
        found = compiled(x.numpy())
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    import openvino  # pyright: ignore[reportMissingImports]

    return json.loads(openvino.Core().read_model(str(path)).get_rt_info("sgformer").astype(str))
