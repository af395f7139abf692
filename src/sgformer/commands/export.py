"""``sgformer export WEIGHTS OUT.onnx`` or ``OUT.pt2``."""

import os
import re
import tempfile
from pathlib import Path

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
) -> Path:
    """Write a trained model as a file that runs without this package.

    Args:
        weights: A run folder (its best weights) or a weights file.
        out: The file to write; its ending says what kind.
        size: (height, width), one number for both, or text such as ``160x208``; None: any size from 128x128.
        max_size: The largest height and width, where the size is open, rounded up to a multiple of 512; None: 1024, or
            what the model was evaluated at.
        half: Whether it computes in float16; a detector's heads remain in float32.
        int8: Whether its matrix products are in 8 bits; ONNX only.
        pyramid: Whether a detector's heads are left out.

    Returns:
        The file that was written.

    Raises:
        ExportError: The model has no SG-Former, or its file does not agree with it. Then none is left.
        ValueError: The weights cannot be used, or an argument is out of range.
    """
    out = Path(out)
    if out.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"the file to write is called {out}; its name must end in .onnx or .pt2")
    onnx = out.suffix == ".onnx"
    if int8 and (half or not onnx):
        raise ValueError("--int8 is for .onnx files alone, and not together with --half")
    fixed = parse_size(size)

    from .. import tasks
    from ..backbone.exporting import MIN_ANY_SIZE
    from ..export.check import verify
    from ..export.files import OPSET, trace, write_onnx, write_program
    from ..export.int8 import quantise
    from ..export.parts import part_of

    if max_size is not None:
        _range(fixed, max_size, MIN_ANY_SIZE)  # before anything is loaded
    model = tasks.load(weights)
    convs = onnx and not (int8 or half)  # int8 rounds matrix products; half is for GPUs, which turn no maps
    part = part_of(model, topk=onnx, convs=convs, half=half, pyramid=pyramid)
    smallest, largest = _range(
        fixed, max_size or max(MAX_SIZE, *part.about["preprocessing"]["image_size"]), MIN_ANY_SIZE
    )
    precision = "float16" if half else "float32"
    about = {**part.about, "sizes": {"smallest": list(smallest), "largest": list(largest)}}
    print(f"following the model {'at ' + _times(fixed) if fixed else 'with open sizes'} ...", flush=True)
    program = trace(
        part.module, part.channels, fixed=fixed, smallest=smallest, largest=largest, batch=part.batch
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = Path(folder) / out.name
        (write_onnx if onnx else write_program)(path, program, about)
        print("checking it against the model ...", flush=True)
        difference = verify(path, part, fixed=fixed, largest=largest, precision=precision)
        if int8:
            path, precision = quantise(path), "int8"
            difference = verify(path, part, fixed=fixed, largest=largest, precision=precision)
        os.replace(path, out)
    takes = _times(fixed) if fixed else f"{_times(smallest)} to {_times(largest)}"
    print(
        f"{model.name} -> {out} ({out.stat().st_size / 1e6:.1f} MB, {precision}{f', opset {OPSET}' if onnx else ''}), "
        f"pictures of {takes}. Largest difference: {difference:.1e} of the largest value, with "
        "the ranking held."
    )
    return out


def parse_size(size: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of what is given as `--size`.

    Example:
        >>> parse_size("160x208"), parse_size("224"), parse_size(None)
        ((160, 208), (224, 224), None)
    """
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
        raise ValueError(f"--max-size {max_size} must be at least 256; for one small size give --size")
    max_size = -(-max_size // STEP) * STEP
    return (min_size, min_size), (max_size, max_size)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
