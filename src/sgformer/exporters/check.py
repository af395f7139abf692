"""Check of an exported file against the model that it was made from."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.ranking import hold_significance, record_significance
from ..tasks.export import Part
from .formats import Format, open_exported
from .parts import ExportError
from .tracing import Size

# Images on which a file must agree with the model before it is kept, as (batch, height, width).
CHECKED = ((1, 224, 224), (3, 160, 208), (1, 333, 250), (2, 416, 352))
# By how much an output may differ with the ranking held, as a share of the largest value; a map of significance by
# ten times that. Eight bits are no rounding error: the last only tells a file that computes something else.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "int8": 0.5}


def verify(path: str | Path, part: Part, *, fixed: Size | None, largest: Size, precision: str = "float32") -> float:
    """Compare what a file computes with the model, on several sizes and numbers of images, none above the `largest`.

    The file also tells the significance that it measured. The model, `part`, on the CPU in float32 and evaluation mode,
    is made to rank by it, because rounding swaps neighbours in a ranking; then its outputs and its own significance
    must be the file's. Gives the largest difference in an output, as a share of the output's largest value;
    ExportError where it is more than rounding is in this `precision`, a key of `TOLERANCE`.
    """
    run = open_exported(path)
    worst, objects = 0.0, 0
    for batch, height, width in _sizes(part, fixed=fixed, largest=largest):
        x = make_images(batch, part.channels, height, width)
        given = run(x)
        if part.scores:
            objects += int((given[part.outputs.index(part.scores)] > 0).sum())
        for name, (difference, scale) in differences(part, x, given).items():
            allowed = TOLERANCE[precision] * (1 if name in part.outputs else 10) * max(1.0, scale)
            if not difference <= allowed:  # also where it is NaN
                raise ExportError(
                    f"the exported file differs from the model by {difference:.1e} in {name}, at {len(x)} images of "
                    f"{height}x{width}; {allowed:.1e} is allowed. No file was kept; try --size {height}x{width}"
                )
            if name in part.outputs:
                worst = max(worst, difference / max(1.0, scale))
    if part.scores and not objects:
        warnings.warn(
            "no object was found in the images of the check, so only significance was compared; is it trained?",
            stacklevel=2,
        )
    return worst


def checked_on(part: Part, kind: Format, *, fixed: Size | None, largest: Size, precision: str) -> dict[str, Any]:
    """Describe the check that a kept file has passed, for its metadata."""
    if not kind.runs_here:
        return {"runtime": None}
    return {
        "runtime": kind.runtime,
        "images": [list(size) for size in _sizes(part, fixed=fixed, largest=largest)],
        "tolerance": TOLERANCE[precision],
    }


def _sizes(part: Part, *, fixed: Size | None, largest: Size) -> list[tuple[int, int, int]]:
    """List the (batch, height, width) on which a file is checked."""
    sizes = [(1, *fixed), (3, *fixed)] if fixed else CHECKED
    fit = [(part.batch or b, h, w) for b, h, w in sizes if h <= largest[0] and w <= largest[1]]
    return list(dict.fromkeys(fit))


@torch.no_grad()
def differences(part: Part, x: Tensor, given: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """For each name of `part.names` the largest difference to the model, whose ranking is held, and largest value."""
    maps = given[len(part.outputs) :]
    with hold_significance(part.backbone, maps), record_significance(part.backbone) as measured:
        expected = part.reference(x)
    together = list(zip(part.names, given, [*expected, *measured], strict=True))
    found = {}
    if part.compare is not None:
        found = part.compare(given[: len(part.outputs)], expected)
        together = together[len(part.outputs) :]
    return found | {
        name: (float((ours - theirs).abs().max()), float(theirs.abs().max())) for name, ours, theirs in together
    }


def make_images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth shapes and some noise, the same every time."""
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    shapes = torch.randn(batch, channels, 6, 7, generator=generator)
    shapes = F.interpolate(shapes, (height, width), mode="bicubic", align_corners=False)
    return shapes + 0.3 * torch.randn(batch, channels, height, width, generator=generator)
