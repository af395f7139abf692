"""Tracing of a module by `torch.export` with dynamic shapes, from which every format is written."""

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..engine.quiet import errors_only
from ..fast.exported import convolutions

MIN_ANY_SIZE = 128  # below it some bands are shorter than a group, and the numbers of groups become 1
MAX_BATCH = 1024
EXAMPLE = (2, 224, 256)  # what the model is traced with
Size = tuple[int, int]


def trace(
    module: nn.Module,
    channels: int,
    *,
    fixed: Size | None,
    smallest: Size,
    largest: Size,
    batch: int | None = None,
    convs: bool = False,
) -> Any:
    """Trace a module to a `torch.export.ExportedProgram` with dynamic shapes.

    Without a `fixed` (height, width), any from `smallest` to `largest` is taken; without a `batch`, any number of
    images. `convs` makes convolutions of projections beside convolutions, see `fast.exported`. ValueError where this
    PyTorch is too old to leave sizes open.
    """
    if "prefer_deferred_runtime_asserts_over_guards" not in inspect.signature(torch.export.export).parameters:
        raise ValueError(
            f"exporting needs a newer PyTorch than {torch.__version__}, which cannot leave sizes open: "
            "pip install --upgrade torch"
        )
    Dim = torch.export.Dim
    shape: dict[int, Any] = {} if batch else {0: Dim("batch", min=1, max=MAX_BATCH)}
    if not fixed:
        shape |= {2: Dim("height", min=smallest[0], max=largest[0])}
        shape |= {3: Dim("width", min=smallest[1], max=largest[1])}
    some, height, width = EXAMPLE
    height, width = fixed or (min(height, largest[0]), min(width, largest[1]))
    with torch.no_grad(), quiet(), convolutions(convs):
        program = torch.export.export(
            module,
            (torch.zeros(batch or some, channels, height, width),),
            dynamic_shapes=(shape,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine in it
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' warnings, logs and prints; errors are raised as ever."""
    loud = errors_only("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), loud:
        warnings.simplefilter("ignore")
        yield
