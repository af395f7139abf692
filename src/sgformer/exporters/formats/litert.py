"""`.tflite` files, for LiteRT."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tracing import quiet
from . import Run

# Metadata lie in a zip archive at the file's end, where LiteRT's own tools keep files that belong to a model.
METADATA = "sgformer.json"


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """A file for one size and one number of images."""
    with quiet():
        import litert_torch  # pyright: ignore[reportMissingImports]

        example = (torch.zeros(about["batch"], *_input_shape(program)[1:]),)
        litert_torch.convert(program.module(), sample_args=example).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, json.dumps(about))


def open_file(path: Path, threads: int) -> Run:
    """The file in LiteRT on the CPU."""
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    interpreter = Interpreter(str(path), num_threads=threads or None)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    outputs = sorted(runner.get_output_details(), key=lambda output: int(re.findall(r"\d+", output)[-1]))

    def run(x: Tensor) -> Sequence[Tensor]:
        found = runner(**{name: x.numpy()})
        return [torch.from_numpy(found[output].copy()) for output in outputs]

    return run


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(METADATA))


def _input_shape(program: Any) -> Sequence[int]:
    (node,) = (n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
    return node.meta["val"].shape
