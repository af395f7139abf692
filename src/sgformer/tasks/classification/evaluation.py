"""Evaluation of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

from ..evaluation import BaseReport, Mistake, Worst, readable, taken_for
from ..loading import Unreadable
from .data import ClassificationData
from .model import Classifier
from .options import DataOptions


@dataclass(frozen=True)
class ClassRow:
    """Quality of a classifier at one class."""

    name: str
    num_images: int
    top1: float  # share of them named right
    most_often_taken_for: str | None  # what the others are


@dataclass(frozen=True)
class Report(BaseReport):
    """Report on a classifier's quality; its confusion matrix counts images."""

    top1: float  # share of images whose class is named first
    top5: float  # share of images whose class is among the first five
    calibration_error: float  # mean distance between how sure it is and how often it is right, in 15 bins
    classes: tuple[ClassRow, ...]  # those that have images

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Table for display: column heads, and a row for each class."""
        rows: list[Sequence[str]] = [
            (row.name, str(row.num_images), f"{row.top1:.1%}", row.most_often_taken_for or "") for row in self.classes
        ]
        return ("class", "images", "top-1", "else most often"), rows

    def to_lines(self) -> list[str]:
        """Lines below the table: all images together."""
        top5 = f", top-5 {self.top5:.1%}" if self.confusion and len(self.confusion) > 5 else ""  # else it is 100 %
        return [
            f"all {self.num_images} images: top-1 {self.top1:.1%}{top5}",
            f"calibration error: {self.calibration_error:.1%}",
            *super().to_lines(),
        ]


def evaluate(model: Classifier, data: DataOptions, *, num_worst: int = 0, progress: Any = iter) -> Report:
    """Evaluate a classifier, left in the mode that it is in, on the validation images.

    Mean, deviation and interpolation are the model's own. The report shows the ``num_worst`` images that it is wrong
    about and most sure of; ``progress`` wraps the batches.

    Raises:
        DataError: Folders or classes are not as they must be, or no image can be read.
    """
    preprocessing = replace(
        model.preprocessing,
        image_size=data.eval_size,
        crop_fraction=data.crop_fraction or model.preprocessing.crop_fraction,
    )
    module = ClassificationData(data, preprocessing, classes=model.classes, splits=("val",), views=data.views)
    if model.has_fixed_size and data.eval_size != model.preprocessing.image_size:
        model.backbone.set_input_size(img_size=data.eval_size)  # pyright: ignore
    device, num_classes, worst = model.mean.device, len(model.classes), Worst(num_worst)
    top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)).to(device)
    confusion = MulticlassConfusionMatrix(num_classes).to(device)
    calibration = MulticlassCalibrationError(num_classes, n_bins=15).to(device)
    left_out: list[Unreadable] = []
    with model.evaluating():
        for images, targets, _ in readable(progress(module.val_dataloader()), left_out):
            scores, targets = _scores(model, images.to(device)), targets.to(device)
            for metric in (top5, calibration, confusion):
                metric.update(scores, targets)
            _consider(worst, model, images, scores, targets)
    counts = confusion.compute().cpu()  # (true class, named class)
    right = counts.diagonal()
    names = list(map(model.name_of, range(num_classes)))
    others, nums = taken_for(counts, names), counts.sum(1).tolist()
    rows = [ClassRow(names[i], nums[i], int(right[i]) / nums[i], others[i]) for i in range(num_classes) if nums[i]]
    total = int(counts.sum())
    return Report(
        top1=int(right.sum()) / total,
        top5=top5.compute().item(),
        num_images=total,
        num_unreadable=len(left_out),
        calibration_error=calibration.compute().item(),
        confusion=tuple(map(tuple, counts.tolist())),
        classes=tuple(rows),
        notes=(*module.notes, *map(str, left_out)),
        worst=worst.sorted(),
    )


def _scores(model: Classifier, images: Tensor) -> Tensor:
    """Probabilities (B, classes) of pixels (B, 3, height, width), or averaged over (B, views, 3, height, width)."""
    views = images.unbind(1) if images.ndim == 5 else (images,)
    return torch.stack([model(model.normalize(view)).float().softmax(-1) for view in views]).mean(0)


def _consider(worst: Worst, model: Classifier, images: Tensor, scores: Tensor, targets: Tensor) -> None:
    """Consider the wrong ones of a batch for the worst mistakes, by how sure the classifier is."""
    sure, named = scores.max(-1)
    for place in (named != targets).nonzero().flatten().tolist():
        image = images[place] if images.ndim == 4 else images[place][0]
        score, said, target = (each[place].item() for each in (sure, named, targets))
        caption = f"{model.name_of(int(target))}, taken for {model.name_of(int(said))} ({score:.0%})"

        def show(image: Tensor = image, caption: str = caption) -> Mistake:
            return Mistake(
                [model.preprocessing.show(image)], model.normalize(image.to(model.mean.device)).cpu(), caption
            )

        worst.add(score, show)
