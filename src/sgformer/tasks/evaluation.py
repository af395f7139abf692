"""Evaluation reports, and the worst mistakes of one pass over the data."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch import Tensor

from .errors import DataError
from .loading import Batch, Unreadable


class Mistake(NamedTuple):
    """An image that a model is wrong about."""

    panels: list[Image.Image]  # to be seen side by side, the image itself first
    seen: Tensor  # what the backbone sees of it, (3, height, width)
    caption: str  # what went wrong, in a line


class Worst:
    """The ``num`` worst of many mistakes, found in one pass; each is drawn only if it is among them so far."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._heap: list[tuple[float, int, Mistake]] = []
        self._count = 0

    def add(self, badness: float, make: Callable[[], Mistake]) -> None:
        """Consider a mistake; of equally bad ones the first stays."""
        self._count -= 1  # tells equally bad ones apart, and earlier ones are larger
        if len(self._heap) < self.num:
            heapq.heappush(self._heap, (badness, self._count, make()))
        elif self.num and badness > self._heap[0][0]:
            heapq.heapreplace(self._heap, (badness, self._count, make()))

    def sorted(self) -> tuple[Mistake, ...]:
        """The worst first."""
        return tuple(mistake for _, _, mistake in sorted(self._heap, key=lambda entry: entry[:2], reverse=True))


@dataclass(frozen=True, kw_only=True)
class BaseReport(ABC):
    """Evaluation report of a model."""

    DRAWN: ClassVar = ("curves", "worst", "results")

    num_images: int
    num_unreadable: int = 0  # which count nowhere
    notes: tuple[str, ...] = ()  # what was left out of the data, or is unusual, a line each
    confusion: tuple[tuple[int, ...], ...] | None = None  # counts by true class (rows) and given class (columns)
    # By name of a figure, by name of a curve, the precision at 101 recalls from 0 to 1.
    curves: dict[str, dict[str, tuple[float, ...]]] | None = None
    worst: tuple[Mistake, ...] = ()  # if they were asked for
    results: tuple[dict[str, Any], ...] | None = None  # as pycocotools takes them, where the data have ids for that

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all but what is drawn, shares to six places."""
        return _plain({name: value for name, value in vars(self).items() if name not in self.DRAWN})

    @abstractmethod
    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Table for display: column heads and rows."""

    def to_lines(self) -> list[str]:
        """Lines below the table."""
        return [*([f"unreadable images: {self.num_unreadable}"] if self.num_unreadable else []), *self.notes]


def readable(batches: Iterable[Batch], left_out: list[Unreadable]) -> Iterator[Batch]:
    """Yield what can be read, and list the rest; DataError where that is all."""
    nothing = True
    for batch in batches:
        left_out += batch.unreadable
        if len(batch.images):
            nothing = False
            yield batch
    if nothing and left_out:
        path, reason = left_out[0]
        raise DataError(f"none of {len(left_out)} images can be read, such as {path}: {reason}")


def taken_for(counts: Tensor, names: Sequence[str]) -> list[str | None]:
    """Name the class that each class is most often taken for; ``counts`` are by true class (rows) and given class."""
    wrong = counts - counts.diag().diag()
    return [names[int(row.argmax())] if row.any() else None for row in wrong]


def percent(value: float | None) -> str:
    """A share as a percentage; empty where there is none."""
    return "" if value is None else f"{value:.1%}"


def _plain(value: Any) -> Any:
    """A value for JSON; what is said of a class begins with its name."""
    if is_dataclass(value):
        return {"class" if name == "name" else name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return list(map(_plain, value))
    return round(value, 6) if isinstance(value, float) else value
