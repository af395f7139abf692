"""Write a trained model as ONNX or torch.export file.

The ending of OUT decides: .onnx for ONNX Runtime and others, .pt2 for
torch.export.load. A file takes any number of images, of any size from 128x128
to --max-size, or of one size with --size; that of a detector takes one image
at a time. It is checked against the model before it is kept.

Examples:
  sgformer export runs/imagenette160 model.onnx
  sgformer export best.safetensors model.pt2 --max-size 640
  sgformer export best.safetensors model.onnx --size 160x208
  sgformer export best.safetensors model.onnx --int8
  sgformer export runs/nuclei maps.onnx --pyramid
  sgformer export best.safetensors page --web
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .inputs import parse_size

if TYPE_CHECKING:
    from ..exporters.formats import Format
    from ..exporters.tracing import Size
    from ..tasks.export import Part

MAX_SIZE = 1024
STEP = 512  # torch.export stumbles over some upper ends, such as 420; over multiples of this it does not


def export(
    weights: str | Path,
    out: str | Path,
    *,
    size: str | int | tuple[int, int] | None = None,
    max_size: int | None = None,
    half: bool = False,
    int8: bool = False,
    pyramid: bool = False,
    web: bool = False,
) -> Path:
    """Write a trained model as a file that runs without this package.

    Args:
        weights: A run folder (its best weights) or a weights file.
        out: The file to write; its ending says what kind.
        size: Images of this height and width only, such as 224 or ``160x208``; by default any size from 128x128 where
            the kind of file can, otherwise what the model was evaluated at.
        max_size: The largest height and width, where the size is open, rounded up to a multiple of 512; by default
            1024, or what the model was evaluated at.
        half: Whether it computes in float16; a detector's heads remain in float32.
        int8: Whether its matrix products are in 8 bits; ONNX only.
        pyramid: Whether a detector's heads are left out.
        web: Whether OUT is a folder that any static host can serve: a page that runs the model in the browser, with
            ONNX Runtime from npm; classifiers only.

    Returns:
        The file that was written.

    Raises:
        ExportError: The model has no SG-Former, or its file does not agree with it. Then none is left.
        ModuleNotFoundError: What writes or runs such files is not installed.
        ValueError: The weights cannot be used, or an argument is out of range.
    """
    out = Path(out)
    if web:
        return _export_page(weights, out, size)
    from ..exporters.formats import format_of

    kind = format_of(out)
    fixed = None if size is None else parse_size(size, least=32)
    _check_options(kind, out.suffix, fixed=fixed, max_size=max_size, half=half, int8=int8)

    from .. import tasks
    from ..exporters.check import checked_on
    from ..exporters.parts import ExportError, part_of
    from ..exporters.tracing import trace

    model = tasks.load(weights)
    part = part_of(model, half=half, pyramid=pyramid)
    if part.scores and not kind.lists:
        raise ExportError(
            f"{out.suffix} files cannot list objects; give --pyramid for the maps alone, or write .onnx or .pt2"
        )
    if not kind.open_sizes:
        part = replace(part, batch=1, about={**part.about, "batch": 1})
        fixed = fixed or part.image_size
        if fixed is None:
            raise ValueError(f"{out.suffix} files take images of one size; give --size")
    smallest, largest = _range(fixed, max_size or max(MAX_SIZE, *part.about["preprocessing"]["image_size"]))
    precision = "int8" if int8 else "float16" if half else "float32"
    about = {
        **part.about,
        "sizes": {"smallest": list(smallest), "largest": list(largest)},
        "checked": checked_on(part, kind, fixed=fixed, largest=largest, precision=precision),
    }
    print(f"tracing the model {'at ' + _times(fixed) if fixed else 'with open sizes'} ...", flush=True)
    program = trace(
        part.module,
        part.channels,
        fixed=fixed,
        smallest=smallest,
        largest=largest,
        batch=part.batch,
        convs=kind.convs and not (int8 or half),  # int8 rounds products; half is for GPUs, which turn no maps
    )
    check = partial(_checked, part=part, kind=kind, fixed=fixed, largest=largest, precision=precision)
    num_bytes, difference = _write(out, lambda path: kind.writer.write(path, program, about), check)
    takes = _times(fixed) if fixed else f"{_times(smallest)} to {_times(largest)}"
    print(f"{model.name} -> {out} ({num_bytes / 1e6:.1f} MB, {precision}), images of {takes}; {difference}.")
    return out


def _check_options(
    kind: Format, suffix: str, *, fixed: Size | None, max_size: int | None, half: bool, int8: bool
) -> None:
    """Raise an error where a kind of file cannot be had as asked for, before anything is loaded."""
    if int8 and (half or suffix != ".onnx"):
        raise ValueError("--int8 is for .onnx files alone, and not together with --half")
    if half and suffix not in (".onnx", ".pt2"):
        raise ValueError(f"--half is for .onnx and .pt2 files, not for {suffix}")
    if max_size is not None:
        if not kind.open_sizes:
            raise ValueError(f"{suffix} files take images of one size; give --size in place of --max-size")
        _range(fixed, max_size)
    kind.require()


def _write(out: Path, write: Callable[[Path], None], check: Callable[[Path], str]) -> tuple[int, str]:
    """Write a file that takes its place once it has passed a check; returns its bytes, and what the check says."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        write(Path(folder) / out.name)
        difference = check(Path(folder) / out.name)
        num_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        _keep(Path(folder), out)
    return num_bytes, difference


def _checked(path: Path, *, part: Part, kind: Format, fixed: Size | None, largest: Size, precision: str) -> str:
    """Check a file against the model, where its runtime is to be had; in 8 bits it is rounded first."""
    from ..exporters.check import verify
    from ..exporters.int8 import quantise

    if not kind.runs_here:
        return "not run here"
    print(f"checking it against the model in {kind.runtime} ...", flush=True)
    if precision == "int8":
        quantise(path)
    difference = verify(path, part, fixed=fixed, largest=largest, precision=precision)
    return f"largest difference in {kind.runtime}: {difference:.1e} of the largest value, with the ranking held"


def _export_page(weights: str | Path, folder: Path, size: str | int | tuple[int, int] | None) -> Path:
    from .. import tasks
    from ..exporters.formats import about_exported
    from .web_page import fetch_runtime, write_folder

    model = tasks.load(weights)
    if not model.in_browsers:
        raise ValueError(f"--web is for classifiers; {weights} is for {model.task}")
    if len(model.preprocessing.mean) != 3:
        raise ValueError(f"--web is for RGB images; {weights} takes {len(model.preprocessing.mean)} bands")
    fetch_runtime(folder)
    file = export(weights, folder / "model.onnx", size=size or model.preprocessing.image_size)
    write_folder(folder, about_exported(file))
    print(f"{folder}: a page for any static host; try it: python -m http.server -d {folder}")
    return folder / "index.html"


def _keep(folder: Path, out: Path) -> None:
    """Moves what was written to its place, what belongs beside the file before the file itself."""
    for made in sorted(folder.iterdir(), key=lambda path: path.name == out.name):
        place = out.with_name(made.name)
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(made, place)


def _range(fixed: Size | None, max_size: int) -> tuple[Size, Size]:
    """The smallest and the largest (height, width) that a file takes."""
    from ..exporters.tracing import MIN_ANY_SIZE

    if fixed:
        return fixed, fixed
    if max_size < 256:
        raise ValueError(f"--max-size {max_size} must be at least 256; for one small size give --size")
    max_size = -(-max_size // STEP) * STEP
    return (MIN_ANY_SIZE, MIN_ANY_SIZE), (max_size, max_size)


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
