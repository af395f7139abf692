"""Reports on how good a model is, and the worst mistakes of one pass over the data."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor


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
    """Report on how good a model is."""

    num_images: int
    notes: tuple[str, ...] = ()  # what was left out of the data, or is unusual, a line each
    worst: tuple[Mistake, ...] = ()  # if they were asked for
    results: tuple[dict[str, Any], ...] | None = None  # as pycocotools takes them, where the data have ids for that

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

    @abstractmethod
    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """For people: column heads and rows."""

    def to_lines(self) -> list[str]:
        """Lines below the table."""
        return list(self.notes)

    def confusion_matrix(self) -> Sequence[Sequence[int]] | None:
        """Counts by true class (rows) and given class (columns), for tasks that have such."""
        return None

    def precision_recall(self) -> Any:
        """By name of a figure, by name of a curve, the precision at 101 recalls from 0 to 1; None without such."""
        return None


def taken_for(counts: Tensor, names: Sequence[str]) -> list[str | None]:
    """Name the class that each class is most often taken for; ``counts`` are by true class (rows) and given class."""
    wrong = counts - counts.diag().diag()
    return [names[int(row.argmax())] if row.any() else None for row in wrong]


def rounded(value: float | None) -> float | None:
    """A share for JSON."""
    return None if value is None else round(value, 6)


def percent(value: float | None) -> str:
    """A share for people."""
    return "" if value is None else f"{value:.1%}"
