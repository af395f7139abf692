"""From a picture of any size to its class map: whole or in windows, at several scales, mirrored or not.

Scores of 150 classes for a photograph of 24 million pixels take 14 GB. So they are computed from top to bottom, a row
of windows at a time, and turned to classes as soon as no later window adds to them: memory follows the width of a
picture, not its area.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..images import Preprocessing

# Larger pictures go through the model in windows even where none are asked for: two million pixels.
MAX_WHOLE = 2**21
# Scores that are turned to classes at once, as float32 numbers: 256 MiB.
_AT_ONCE = 2**26

Progress = Callable[[Sequence[range]], Iterable[range]]
# A model: logits (1, classes, height, width) of a prepared picture (1, 3, height, width).
Scorer = Callable[[Tensor], Tensor]


@dataclass(kw_only=True)
class InferenceOptions:
    """How pictures go through a trained model.

    Attributes:
        shorter_side: What pictures are resized to first; null: as they are. Results have the picture's own size.
        window: Side of the square windows in which a picture is looked at; null: pictures of up to two million pixels
            are seen whole, larger ones in windows of 512 pixels, or the size in training where that is more.
        overlap: Share of a window that its neighbour sees, too, at least.
        scales: Factors on the picture's size; the probabilities of all are averaged.
        flip: Whether each scale is also looked at mirrored.
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
                raise ValueError(
                    f"inference.{name} {value} is too small: models of stride 32 need 32 or more"
                )


def prepare(
    picture: Image.Image, preprocessing: Preprocessing, *, size: tuple[int, int], device: Any = "cpu"
) -> Tensor:
    """A picture as the model takes it, (3, height, width), resized where its size is another."""
    height, width = size
    if picture.size != (width, height):
        how = Image.Resampling[preprocessing.interpolation.upper()]
        picture = picture.resize((width, height), how)
    pixels = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1).float()
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (pixels / 255 - mean) / std


def scaled_size(size: tuple[int, int], shorter_side: int | None, scale: float = 1.0) -> tuple[int, int]:
    """(height, width) of what the model sees; no side below 32."""
    factor = scale * (shorter_side / min(size) if shorter_side else 1)
    return max(32, round(size[0] * factor)), max(32, round(size[1] * factor))


@torch.inference_mode()
def class_map(
    scorer: Scorer,
    picture: Image.Image,
    preprocessing: Preprocessing,
    options: InferenceOptions,
    *,
    device: Any = "cpu",
    progress: Progress = iter,
) -> NDArray[np.uint8]:
    """The class of each pixel of a picture, `(H, W)`.

    Args:
        scorer: The model.
        picture: RGB.
        preprocessing: How pictures are prepared for the model; its image size is that of training.
        options: Whole or in windows, at which scales.
        device: Where to compute.
        progress: Wraps the strips of rows that are finished one after another, to show how far it is.
    """
    size = picture.height, picture.width
    views: list[tuple[_Rows, bool]] = []
    for scale in options.scales:
        seen = scaled_size(size, options.shorter_side, scale)
        image = prepare(picture, preprocessing, size=seen, device=device)
        window = options.window
        if window is None and seen[0] * seen[1] > MAX_WHOLE:
            window = max(512, *preprocessing.image_size)
        for flip in (False, True) if options.flip else (False,):
            views.append((_Rows(scorer, image.flip(-1) if flip else image, window, options.overlap), flip))
    result = np.empty(size, np.uint8)
    for rows in progress(_strips(views, size)):
        # Logits of one view are taken as they are; the mean of several is one of probabilities.
        scores = sum(
            _resized(source, rows, size, flip=flip, probabilities=len(views) > 1) for source, flip in views
        )
        result[rows.start : rows.stop] = scores.argmax(0).to(torch.uint8).cpu().numpy()  # pyright: ignore
    return result


def _strips(views: "list[tuple[_Rows, bool]]", size: tuple[int, int]) -> list[range]:
    """Rows of the result that are finished at once; short ones where windows are, so that progress is seen."""
    height, width = size
    num_classes = max(source.num_classes for source, _ in views)
    step = max(1, _AT_ONCE // (num_classes * width))
    least = max(source.num_rows for source, _ in views)
    step = min(step, math.ceil(height / least))
    return [range(start, min(start + step, height)) for start in range(0, height, step)]


def _resized(
    source: "_Rows", rows: range, size: tuple[int, int], *, flip: bool, probabilities: bool
) -> Tensor:
    """Scores (classes, len(rows), width) of these rows of the picture: bilinear, as `interpolate` of the whole."""
    height, width = size
    if source.height == height:
        scores = source.get(rows.start, rows.stop)
    else:
        # Pixel centres of the result, in rows of the source.
        where = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * (
            source.height / height
        ) - 0.5
        where = where.clamp(0, source.height - 1)
        above = where.floor().long()
        below = (above + 1).clamp(max=source.height - 1)
        first = int(above[0])
        part = source.get(first, int(below[-1]) + 1)
        weight = (where - above).to(part)[None, :, None]
        above, below = (index.to(part.device) - first for index in (above, below))
        scores = part[:, above] * (1 - weight) + part[:, below] * weight
    if source.width != width:
        scores = interpolate(scores[None], (scores.shape[1], width), mode="bilinear", align_corners=False)[0]
    if flip:
        scores = scores.flip(-1)
    return scores.softmax(0) if probabilities else scores


class _Rows:
    """Scores of a picture, computed from top to bottom as they are asked for.

    Where windows overlap, their scores are averaged. Rows are asked for in order; what lies above the last request
    is forgotten.
    """

    def __init__(self, scorer: Scorer, image: Tensor, window: int | None, overlap: float) -> None:
        self.scorer, self.image = scorer, image
        _, self.height, self.width = image.shape
        self.window = min(window or self.height, self.height), min(window or self.width, self.width)
        self.tops = _starts(self.height, self.window[0], overlap)
        self.lefts = _starts(self.width, self.window[1], overlap)
        self.counts = torch.zeros(self.width, device=image.device)
        for left in self.lefts:
            self.counts[left : left + self.window[1]] += 1
        self.next = 0  # of tops
        self.start = 0  # the first row that is kept
        self.sums: Tensor | None = None  # (classes, kept rows, width)
        self.times = torch.zeros(0, device=image.device)  # how many rows of windows added to each kept row

    @property
    def num_rows(self) -> int:
        """Of windows."""
        return len(self.tops)

    @property
    def num_classes(self) -> int:
        """Known after the first row of windows, which is computed here."""
        if self.sums is None:
            self._add_row()
        assert self.sums is not None
        return len(self.sums)

    def get(self, first: int, last: int) -> Tensor:
        """Scores (classes, last - first, width) of rows."""
        while self.next < len(self.tops) and self.tops[self.next] < last:
            self._add_row(keep_from=first)
        assert self.sums is not None
        part = slice(first - self.start, last - self.start)
        return self.sums[:, part] / (self.times[part, None] * self.counts)

    def _add_row(self, keep_from: int = 0) -> None:
        top = self.tops[self.next]
        self.next += 1
        height, width = self.window
        for left in self.lefts:
            scores = self.scorer(self.image[None, :, top : top + height, left : left + width])[0].float()
            if self.sums is None:
                self.sums = scores.new_zeros(len(scores), 0, self.width)
            if self.start + self.sums.shape[1] < top + height:
                self._move(keep_from, top + height)
            self.sums[:, top - self.start : top - self.start + height, left : left + width] += scores
        self.times[top - self.start : top - self.start + height] += 1

    def _move(self, start: int, stop: int) -> None:
        """Keep rows from start to stop: forget what is above, add zeros below."""
        assert self.sums is not None
        kept = self.sums[:, start - self.start :].clone()
        self.sums = None  # so that old and new are never in memory together
        more = stop - start - kept.shape[1]
        self.times = torch.cat([self.times[start - self.start :], self.times.new_zeros(more)])
        self.sums = kept.new_zeros(len(kept), stop - start, self.width)
        self.sums[:, : kept.shape[1]] = kept
        self.start = start


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin so that they cover a length, evenly, with at least this overlap."""
    if window >= length:
        return [0]
    stride = max(1, int(window * (1 - overlap)))
    number = math.ceil((length - window) / stride) + 1
    return [round(i * (length - window) / (number - 1)) for i in range(number)]
