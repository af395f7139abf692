"""``sgformer export WEIGHTS OUT.onnx`` or ``OUT.pt2``."""

import argparse
import contextlib
import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
MAX_SIZE = 1024
STEP = 512  # torch.export stumbles over some upper ends, such as 420; over multiples of this it does not
MAX_BATCH = 1024
# Pictures on which a file must agree with the model before it is kept, as (batch, height, width).
CHECKED = ((1, 224, 224), (3, 160, 208), (1, 333, 250), (2, 416, 352))
EXAMPLE = (2, 224, 256)  # what the model is traced with
TOLERANCE = 1e-4  # of the largest logit, with the ranking held
Run = Callable[["Tensor"], "Sequence[Tensor]"]

EXAMPLES = """The ending of OUT decides: .onnx for ONNX Runtime and others, .pt2 for torch.export.load.
A file takes any number of pictures, of any size from 128x128 to --max_size, or of one size with --size.
It is checked against the model before it is kept.

examples:
  sgformer export runs/imagenette160 model.onnx
  sgformer export best.safetensors model.pt2 --max_size 640
  sgformer export best.safetensors model.onnx --size 160x208
"""


class ExportError(ValueError):
    """A model that cannot be exported, or a file that does not compute what the model computes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("weights", help="a run folder (its best weights) or a weights file")
    parser.add_argument("out", help="the file to write: .onnx or .pt2")
    parser.add_argument(
        "--size", metavar="HxW", help="pictures of this height and width only, such as 224 or 160x208"
    )
    parser.add_argument(
        "--max_size", type=int, default=MAX_SIZE, metavar="PIXELS",
        help=f"the largest height and width that the file takes, rounded up to {STEP}s (default: {MAX_SIZE})",
    )  # fmt: skip


def export(
    weights: str | Path,
    out: str | Path,
    *,
    size: str | int | tuple[int, int] | None = None,
    max_size: int = MAX_SIZE,
) -> Path:
    """Write a trained classifier as a file that runs without this package.

    Args:
        weights: A run folder (its best weights) or a weights file.
        out: The file to write; its ending says what kind.
        size: (height, width), one number for both, or text such as ``160x208``; None: any size from 128x128. A model
            with a token budget needs it.
        max_size: The largest height and width, where the size is open; rounded up to a multiple of 512.

    Returns:
        The file that was written.

    Raises:
        ExportError: The model is no SG-Former classifier, or its file does not agree with it. Then none is left.
        ValueError: The weights cannot be used, or an argument is out of range.
    """
    out = Path(out)
    if out.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"the file to write is called {out}; its name must end in .onnx or .pt2")

    from .. import tasks

    model = tasks.load(weights)
    backbone: Any = getattr(model, "backbone", None)
    if not hasattr(model, "classes") or not hasattr(backbone, "set_token_budget"):
        raise ExportError(f"{weights} is no SG-Former classifier; only those can be exported so far")
    from ..backbone import exporting

    onnx = out.suffix == ".onnx"
    fixed = _parse_size(size)
    smallest, largest = _range(fixed, max_size, exporting.MIN_ANY_SIZE)
    if backbone.token_budget is not None and not fixed:
        raise ExportError(
            f"the model has a token budget ({backbone.token_budget}), whose group sizes are searched for and no "
            "formula in the picture's size; export it for one size, such as --size 224"
        )
    wrapper = exporting.Exportable(backbone, topk=onnx)
    outputs = ["logits", *(f"significance{i + 1}" for i in range(exporting.num_maps(backbone)))]
    about = {
        "format": 1,
        "task": "classification",
        "model": {"name": model.name, "kwargs": model.kwargs},
        "classes": list(model.classes),
        "preprocessing": asdict(model.preprocessing),
        "input": "pictures",
        "outputs": outputs,
        "sizes": {"smallest": list(smallest), "largest": list(largest)},
    }
    print(f"following the model {'at ' + _times(fixed) if fixed else 'with open sizes'} ...", flush=True)
    program = _trace(wrapper, backbone.in_chans, fixed, smallest, largest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = Path(folder) / out.name
        write = _write_onnx if onnx else _write_program
        write(path, program, about, outputs)
        print("checking it against the model ...", flush=True)
        difference = verify(path, backbone, fixed=fixed, largest=largest)
        os.replace(path, out)
    takes = _times(fixed) if fixed else f"{_times(smallest)} to {_times(largest)}"
    print(
        f"{model.name} -> {out} ({out.stat().st_size / 1e6:.1f} MB{f', opset {OPSET}' if onnx else ''}), "
        f"pictures of {takes}. Largest difference in a logit: {difference:.1e}, with the ranking held."
    )
    return out


def verify(
    path: str | Path, backbone: Any, *, fixed: tuple[int, int] | None, largest: tuple[int, int]
) -> float:
    """Hold what a file computes against the model, on several sizes and numbers of pictures.

    The file also tells the significance that it measured. The model is made to rank by it, because rounding swaps
    neighbours in a ranking; then its logits and its own significance must be the file's.

    Args:
        path: What `export` wrote.
        backbone: The model, on the CPU in float32 and evaluation mode.
        fixed: (height, width), if the file takes one size only.
        largest: Greatest (height, width); larger checks are left out.

    Returns:
        The largest difference of a logit.

    Raises:
        ExportError: They differ by more than rounding does.
    """
    import torch

    from ..backbone.exporting import hold_significance

    run = open_exported(path)
    sizes = [(1, *fixed), (3, *fixed)] if fixed else CHECKED
    worst = 0.0
    for batch, height, width in sizes:
        if height > largest[0] or width > largest[1]:
            continue
        x = _pictures(batch, backbone.in_chans, height, width)
        logits, *maps = run(x)
        with torch.no_grad(), hold_significance(backbone, maps):
            expected, measured = backbone(x), backbone.forward_significance(x)
        for name, ours, theirs in [
            ("logits", logits, expected),
            *zip(_names(maps), maps, measured, strict=True),
        ]:
            difference = float((ours - theirs).abs().max())
            allowed = (TOLERANCE if name == "logits" else 10 * TOLERANCE) * max(
                1.0, float(theirs.abs().max())
            )
            if not difference <= allowed:  # also where it is NaN
                raise ExportError(
                    f"the exported file differs from the model by {difference:.1e} in {name}, at {batch} pictures of "
                    f"{height}x{width}; {allowed:.1e} is allowed. No file was kept; try --size {height}x{width}"
                )
        worst = max(worst, float((logits - expected).abs().max()))
    return worst


def open_exported(path: str | Path) -> Run:
    """An exported file as a function from prepared pictures to logits and significance maps, on the CPU."""
    import torch

    path = Path(path)
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()

        def run(x: "Tensor") -> "Sequence[Tensor]":
            with torch.no_grad():
                return module(x)

        return run

    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run_onnx(x: "Tensor") -> "Sequence[Tensor]":
        return [torch.from_numpy(array) for array in session.run(None, {"pictures": x.numpy()})]

    return run_onnx


def about_exported(path: str | Path) -> dict[str, Any]:
    """The metadata of an exported file: classes, preprocessing, sizes and names."""
    import torch

    if Path(path).suffix == ".pt2":
        files = {"sgformer": ""}
        torch.export.load(Path(path), extra_files=files)
        return json.loads(files["sgformer"])
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return json.loads({entry.key: entry.value for entry in model.metadata_props}["sgformer"])


def _trace(
    wrapper: "nn.Module",
    channels: int,
    fixed: tuple[int, int] | None,
    smallest: tuple[int, int],
    largest: tuple[int, int],
) -> Any:
    import torch

    Dim = torch.export.Dim
    shape: dict[int, Any] = {0: Dim("batch", min=1, max=MAX_BATCH)}
    if not fixed:
        shape |= {2: Dim("height", min=smallest[0], max=largest[0])}
        shape |= {3: Dim("width", min=smallest[1], max=largest[1])}
    batch, height, width = EXAMPLE
    height, width = fixed or (min(height, largest[0]), min(width, largest[1]))
    x = _pictures(batch, channels, height, width)
    with torch.no_grad(), _quiet():
        return torch.export.export(
            wrapper,
            (x,),
            dynamic_shapes=(shape,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _write_program(path: Path, program: Any, about: dict[str, Any], outputs: list[str]) -> None:
    import torch

    torch.export.save(program, path, extra_files={"sgformer": json.dumps(about)})


def _write_onnx(path: Path, program: Any, about: dict[str, Any], outputs: list[str]) -> None:
    import onnx
    import onnxruntime  # noqa: F401  the check needs it: better to miss it now than after the work
    import torch

    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program, (), dynamo=True, opset_version=OPSET, input_names=["pictures"], output_names=outputs
        )
    assert exported is not None
    model = exported.model_proto
    _name_sizes(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sgformer", json.dumps({**about, "opset": OPSET})
    onnx.save(model, str(path))


def _name_sizes(model: Any) -> None:
    """Gives the open dimensions their names, where the exporter numbered them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        dim.dim_param: name
        for dim, name in zip(dims, ("batch", "", "height", "width"), strict=True)
        if dim.dim_param
    }
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param):
        dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _pictures(batch: int, channels: int, height: int, width: int) -> "Tensor":
    """Smooth shapes and some noise, the same every time."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(height * 10_000 + width)
    shapes = torch.randn(batch, channels, 6, 7, generator=generator)
    shapes = F.interpolate(shapes, (height, width), mode="bicubic", align_corners=False)
    return shapes + 0.3 * torch.randn(batch, channels, height, width, generator=generator)


def _parse_size(size: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    numbers = re.fullmatch(r"(\d+)(?:x(\d+))?", size) if isinstance(size, str) else None
    if isinstance(size, str) and numbers is None:
        raise ValueError(f"--size {size} is no size; give height and width, such as 224 or 160x208")
    if numbers:
        size = int(numbers[1]), int(numbers[2] or numbers[1])
    height, width = map(int, (size, size) if isinstance(size, int) else size)
    if min(height, width) < 32:
        raise ValueError(f"--size {height}x{width} is too small; SG-Former needs at least 32x32")
    return height, width


def _range(
    fixed: tuple[int, int] | None, max_size: int, min_size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest (height, width) that a file takes."""
    if fixed:
        return fixed, fixed
    if max_size < 256:
        raise ValueError(f"--max_size {max_size} must be at least 256; for one small size give --size")
    max_size = -(-max_size // STEP) * STEP
    return (min_size, min_size), (max_size, max_size)


def _names(maps: Sequence[Any]) -> list[str]:
    return [f"significance{i + 1}" for i in range(len(maps))]


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that exporters write for their own developers; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
