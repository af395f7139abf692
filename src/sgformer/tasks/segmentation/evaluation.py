"""Evaluation of semantic segmentation: confusion matrix, IoU, and the worst images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ..evaluation import BaseReport, Mistake, Worst, percent, readable, taken_for
from ..loading import Batch, Unreadable
from ..windows import scaled_size
from .data import SegmentationData
from .masks import IGNORE
from .model import Segmenter
from .options import DataOptions
from .prediction import SemanticMap

# The longer side of each of the images, and the most that is given to see significance in, in pixels.
DRAWN, SEEN = 480, 1024


@dataclass(frozen=True)
class ClassRow:
    """Quality of a segmenter at one class."""

    name: str
    share: float  # of all judged pixels
    iou: float | None  # pixels rightly given this class, of those that have it or were given it
    accuracy: float | None  # share of its pixels that were given it
    most_often_taken_for: str | None  # the class that most of its other pixels were given


@dataclass(frozen=True)
class Report(BaseReport):
    """Report on a segmenter's quality; its confusion matrix counts pixels."""

    miou: float  # mean over the classes that are there or were given; one that is not there but was given counts 0
    mean_accuracy: float  # over the classes that are there
    pixel_accuracy: float  # share of all judged pixels that were given their class
    classes: tuple[ClassRow, ...]

    @classmethod
    def of(cls, counts: Tensor, names: Sequence[str], *, num_images: int = 0) -> "Report":
        """Build the report from a confusion matrix (classes, classes) of pixels, true classes in rows."""
        counts = counts.cpu()
        total = max(int(counts.sum()), 1)
        others, rows = taken_for(counts, names), []
        for i, name in enumerate(names):
            there, given, right = int(counts[i].sum()), int(counts[:, i].sum()), int(counts[i, i])
            union = there + given - right
            rows.append(
                ClassRow(
                    name=name,
                    share=there / total,
                    iou=right / union if union else None,
                    accuracy=right / there if there else None,
                    most_often_taken_for=others[i],
                )
            )
        return cls(
            miou=_mean([row.iou for row in rows]),
            mean_accuracy=_mean([row.accuracy for row in rows]),
            pixel_accuracy=int(counts.diagonal().sum()) / total,
            num_images=num_images,
            classes=tuple(rows),
            confusion=tuple(map(tuple, counts.tolist())),
        )

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Table for display: column heads, a row for each class, and one for all together."""
        rows: list[Sequence[str]] = [
            (row.name, f"{row.share:.1%}", percent(row.iou), percent(row.accuracy), row.most_often_taken_for or "")
            for row in self.classes
        ]
        last = f"{self.pixel_accuracy:.1%} of pixels right, {self.num_images} images"
        rows.append(("mean", "", f"{self.miou:.1%}", f"{self.mean_accuracy:.1%}", last))
        return ("class", "share", "IoU", "accuracy", "else most often"), rows


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Counts of pixels by true and given class, summed over processes; ignored pixels are left out."""
    # Masks were checked when they were read; torchmetrics' own check would sort every image's pixels.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def count(model: Segmenter, batch: Batch, confusion: MulticlassConfusionMatrix, worst: Worst | None = None) -> None:
    """Add the pixels of images to a confusion matrix, one image at a time at its own size; consider its mistakes."""
    for image, mask in zip(batch.images, batch.targets, strict=True):
        given = model.indices(image)
        pixels = (torch.from_numpy(each).to(confusion.device).flatten().long() for each in (given, mask))
        confusion.update(*pixels)
        if worst is not None:
            _consider(worst, model, image, mask, given)


def evaluate(model: Segmenter, data: DataOptions, *, num_worst: int = 0, progress: Any = iter) -> Report:
    """Evaluate a segmenter, left in the mode that it is in, on the validation images.

    ``data.inference`` becomes the model's own. The report shows the ``num_worst`` images with the greatest share of
    wrong pixels; ``progress`` wraps the batches.

    Raises:
        DataError: Images, masks or classes are not as they must be.
    """
    module = SegmentationData(data, model.preprocessing, classes=model.classes, splits=("val",))
    model.inference = data.inference
    confusion = confusion_matrix(len(model.classes)).to(model.mean.device)
    num_images, worst = 0, Worst(num_worst)
    left_out: list[Unreadable] = []
    with model.evaluating():
        for batch in readable(progress(module.val_dataloader()), left_out):
            count(model, batch, confusion, worst)
            num_images += len(batch.images)
    return replace(
        Report.of(confusion.compute(), model.classes, num_images=num_images),
        num_unreadable=len(left_out),
        notes=(*module.notes, *map(str, left_out)),
        worst=worst.sorted(),
    )


def _consider(worst: Worst, model: Segmenter, image: Any, mask: NDArray[np.uint8], given: NDArray[np.uint8]) -> None:
    """Consider an image for the worst mistakes, by the share of wrong pixels among those that have a class."""
    wrong = (given != mask) & (mask != IGNORE)
    if not wrong.any():
        return
    share = float(wrong.sum() / (mask != IGNORE).sum())

    def show() -> Mistake:
        shown = model.preprocessing.show(image)
        small = shown.copy()
        small.thumbnail((DRAWN, DRAWN))
        maps = (SemanticMap(each, model.classes, model.palette) for each in (mask, given))
        height, width = scaled_size(mask.shape, model.inference.shorter_side)
        seen = model.prepare(image, size=max(32, round(min(height, width) * min(1, SEEN / max(height, width)))))
        pairs = np.bincount(mask[wrong].astype(np.int64) * len(model.classes) + given[wrong])
        true, taken = (model.classes[i] for i in divmod(int(pairs.argmax()), len(model.classes)))
        caption = f"{share:.1%} of pixels wrong, most often {true} taken for {taken}"
        panels = [small, *(map_.paint(shown, longest=DRAWN) for map_ in maps)]
        return Mistake(panels, seen[0].cpu(), caption)

    worst.add(share, show)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)
