"""Dense inference for an image of any size: whole or in sliding windows, at several scales, flipped or not.

Scores of 150 classes for each pixel of a photograph of 24 million take 14 GB. So windows are summed up as models score
them, a cell for each square of 4x4 pixels. They go from top to bottom, and rows to which no later window adds are
enlarged, turned to values of pixels, and forgotten: memory follows the width of an image, not its area.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from .images import Preprocessing

# Pixels of a side of a cell of scores.
STRIDE = 4
# Larger images go through the model in windows even where none are asked for: two million pixels.
MAX_WHOLE = 2**21
# Scores that are enlarged at once, as float32 numbers: 16 MiB, which a processor's allocator still uses again.
_AT_ONCE = 2**22

Progress = Callable[[Sequence[Any]], Iterable[Any]]
# A model: from pixels (height, width, channels) to scores (classes, cells high, cells wide). A cell that is only
# started counts.
Scorer = Callable[[NDArray[Any]], Tensor]
# From the scores of some rows of the image in each view, (classes, rows, width), to a value for each pixel.
Decide = Callable[[list[Tensor]], Tensor]


@dataclass(kw_only=True)
class InferenceOptions:
    """Options of inference with a trained model.

    Attributes:
        shorter_side: What images are resized to first; null: as they are. Results have the image's own size.
        window: Side of the square sliding windows; null: images of up to two million pixels go through the model
            whole, larger ones in windows of 512 pixels, or the size in training where that is more.
        overlap: Share of a window that the next one covers, too, at least.
        scales: Factors on the image's size; the probabilities of all are averaged.
        flip: Whether each scale is also predicted mirrored, and both are averaged.
    """

    shorter_side: int | None = None
    window: int | None = None
    overlap: float = 0.25
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"inference.overlap {self.overlap} is outside [0, 1)")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"inference.scales {self.scales} must be one factor or more, each above 0")
        for name in ("window", "shorter_side"):
            if (value := getattr(self, name)) is not None and value < 32:
                raise ValueError(f"inference.{name} {value} is too small: models of stride 32 need 32 or more")


def resize(image: Any, preprocessing: Preprocessing, *, size: tuple[int, int]) -> NDArray[Any]:
    """An image of (height, width), by the interpolation of training, as pixels (height, width, channels)."""
    if isinstance(image, Tensor):  # of other bands than RGB
        mode = InterpolationMode(preprocessing.interpolation)
        return functional.resize(image, [*size], mode, antialias=True).permute(1, 2, 0).numpy()
    if (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling[preprocessing.interpolation.upper()])
    return np.asarray(image)


def scaled_size(size: tuple[int, int], shorter_side: int | None, scale: float = 1.0) -> tuple[int, int]:
    """(height, width) of what the model sees; no side below 32."""
    factor = scale * (shorter_side / min(size) if shorter_side else 1)
    return max(32, round(size[0] * factor)), max(32, round(size[1] * factor))


@torch.inference_mode()
def dense_map(
    score: Scorer,
    image: Any,
    preprocessing: Preprocessing,
    options: InferenceOptions,
    decide: Decide,
    *,
    dtype: Any,
    progress: Progress = iter,
) -> NDArray[Any]:
    """A value for each pixel of an image that was read, `(H, W)` of a type of NumPy's.

    The preprocessing's image size is that of training. ``progress`` wraps the windows, which are computed one after
    another.
    """
    height, width = functional.get_size(image)
    size = height, width

    views: list[_View] = []
    for scale in options.scales:
        seen = scaled_size(size, options.shorter_side, scale)
        pixels = resize(image, preprocessing, size=seen)
        window = options.window
        if window is None and seen[0] * seen[1] > MAX_WHOLE:
            window = max(512, *preprocessing.image_size)
        for flip in (False, True) if options.flip else (False,):
            views.append(_View(score, pixels, size, window=window, overlap=options.overlap, flip=flip))
    # From top to bottom in all views alike, so that their rows are complete at about the same time.
    depths = [(rows.stop / view.height, view) for view in views for rows, _ in view.windows]
    result = np.empty(size, dtype)
    done = 0
    for _, view in progress(sorted(depths, key=lambda pair: pair[0])):
        view.add_window()
        complete = min(view.num_complete for view in views)
        for rows in _strips(done, complete, numbers_per_row=size[1] * view.num_classes):
            result[rows.start : rows.stop] = decide([view.scores(rows) for view in views]).cpu().numpy()
        done = complete
    return result


def _strips(start: int, stop: int, *, numbers_per_row: int) -> Iterator[range]:
    step = max(1, _AT_ONCE // numbers_per_row)
    return (range(first, min(first + step, stop)) for first in range(start, stop, step))


class _View:
    """An image as the model sees it; its scores come a window at a time and go a row at a time, from top to bottom.

    Where windows overlap, their scores are averaged. What lies above the last rows asked for is forgotten. ``pixels``,
    (height, width, channels), are what the model sees, ``size`` is that of the image, and of the scores that one asks
    for; mirrored scores are mirrored back.
    """

    def __init__(
        self,
        score: Scorer,
        pixels: NDArray[Any],
        size: tuple[int, int],
        *,
        window: int | None,
        overlap: float,
        flip: bool,
    ) -> None:
        self.score = score
        self.pixels = pixels[:, ::-1] if flip else pixels
        self.height, self.width = pixels.shape[:2]
        down, across = (_parts(side, window or side, overlap) for side in (self.height, self.width))
        self.windows = [(rows, columns) for rows in down for columns in across]  # in the order of looking at them
        self.num_added = self.num_classes = 0
        # How many windows each row and each column of cells is in.
        self.times = _times(down)[:, None] * _times(across)
        self.rows = _neighbours(size[0], self.height)
        self.columns = _neighbours(size[1], self.width)
        if flip:
            self.columns = tuple(each.flip(0) for each in self.columns)
        self.sums = torch.empty(0)  # (classes, kept rows of cells, cells wide)
        self.first = self.needed = 0  # rows of cells: the first in sums, the first still asked for

    @property
    def num_complete(self) -> int:
        """Rows of the image, from the top, to whose scores no further window adds."""
        if self.num_added == len(self.windows):
            return len(self.rows[1])
        cells = self.windows[self.num_added][0].start // STRIDE
        return int(torch.searchsorted(self.rows[1], cells))

    def add_window(self) -> None:
        """Compute the next window."""
        rows, columns = self.windows[self.num_added]
        self.num_added += 1
        scores = self.score(self.pixels[rows, columns])
        if not self.num_classes:
            self.num_classes = len(scores)
            self.sums = scores.new_empty(len(scores), 0, self.times.shape[1])
        top, left = rows.start // STRIDE, columns.start // STRIDE
        height, width = scores.shape[1:]
        if (missing := top + height - self.first - self.sums.shape[1]) > 0:
            kept = self.sums[:, self.needed - self.first :]
            self.sums = torch.cat([kept, kept.new_zeros(len(kept), missing, kept.shape[2])], 1)
            self.first = self.needed
        top -= self.first
        self.sums[:, top : top + height, left : left + width] += scores

    def scores(self, rows: range) -> Tensor:
        """Scores (classes, len(rows), width) of complete rows of the image: bilinear between centres of cells."""
        above, below, weights = (each[rows.start : rows.stop] for each in self.rows)
        first, last = int(above[0]), int(below[-1]) + 1
        part = self.sums[:, first - self.first : last - self.first]
        part = part / self.times[first:last].to(part)
        left, right, across = (each.to(part.device) for each in self.columns)
        part = torch.lerp(part[..., left], part[..., right], across)
        above, below, down = (each.to(part.device) for each in (above - first, below - first, weights[:, None]))
        self.needed = int(self.rows[0][rows.stop - 1])
        return torch.lerp(part[:, above], part[:, below], down)


def _parts(length: int, window: int, overlap: float) -> list[slice]:
    """Windows that cover a length, evenly, with at least this overlap.

    Each begins where a cell does. The last one reaches to the end, and is up to three pixels longer for that.
    """
    last = max(0, length - window) // STRIDE  # in cells, as what follows
    step = max(1, int(window * (1 - overlap)) // STRIDE)
    number = math.ceil(last / step)
    starts = [STRIDE * round(i * last / max(number, 1)) for i in range(number + 1)]
    return [slice(start, start + window) for start in starts[:-1]] + [slice(starts[-1], length)]


def _times(parts: Sequence[slice]) -> Tensor:
    """Count the parts of a length that each cell is in; one counts that is there in part."""
    times = torch.zeros(-(-parts[-1].stop // STRIDE))
    for part in parts:
        times[part.start // STRIDE : -(-part.stop // STRIDE)] += 1
    return times


def _neighbours(length: int, seen: int) -> tuple[Tensor, ...]:
    """For each pixel of a side: the cells before and after its centre, and the weight of the latter."""
    cells = -(-seen // STRIDE)
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * (seen / length) / STRIDE - 0.5
    centres = centres.clamp(0, cells - 1)
    before = centres.floor().long()
    return before, (before + 1).clamp(max=cells - 1), (centres - before).float()
