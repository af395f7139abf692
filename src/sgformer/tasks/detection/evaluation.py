"""Evaluation of a detector: COCO's average precision, by pycocotools."""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...engine import devices
from ..errors import DataError
from ..evaluation import BaseReport, Worst, percent, readable
from ..loading import Unreadable
from .data import DetectionData
from .masks import Rle, encode, encode_found
from .mistakes import consider
from .model import Detector
from .options import DataOptions

Row = dict[str, Any]

# COCO's numbers, in the order of pycocotools' summary. AP is over overlaps from 0.5 to 0.95; small is below 32x32
# pixels, large above 96x96; the recall ar100 is that of as many detections an image as there may be.
NUMBERS = "ap ap50 ap75 ap_small ap_medium ap_large ar1 ar10 ar100 ar_small ar_medium ar_large".split()  # noqa: SIM905

TITLES = {"box": "Boxes", "mask": "Masks"}
# How much of their union two boxes or masks must share to be of the same object.
OVERLAPS = [0.5 + 0.05 * step for step in range(10)]


@dataclass(frozen=True)
class ClassRow:
    """Average precision of one class; None where there is no such object, of masks also for a detector without."""

    name: str
    num_objects: int  # crowds aside
    box_ap: float | None
    mask_ap: float | None


@dataclass(frozen=True)
class Report(BaseReport):
    """Report on a detector's quality; its curves are of "Boxes" and "Masks", by overlap, the mean of the classes."""

    box: dict[str, float | None]  # COCO's twelve numbers by the names in `NUMBERS`; None where nothing counts for one
    mask: dict[str, float | None] | None  # likewise; None for a detector without masks
    num_objects: int  # crowds aside
    classes: tuple[ClassRow, ...]

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """Table for display: column heads, a row for each class, and the last ones for all together."""
        rows: list[Sequence[str]] = [
            (row.name, str(row.num_objects), percent(row.box_ap), percent(row.mask_ap)) for row in self.classes
        ]
        mask = self.mask or {}
        rows.append(
            (f"all, {self.num_images} images", str(self.num_objects), percent(self.box["ap"]), percent(mask.get("ap")))
        )
        rows += [
            (name.upper().replace("_", " "), "", percent(value), percent(mask.get(name)))
            for name, value in self.box.items()
            if name != "ap"
        ]
        return ("class", "objects", "box AP", "mask AP"), rows


class Comparison(NamedTuple):
    """Comparison of what was found with what is there. What nothing counts for is left out."""

    numbers: dict[str, dict[str, float]]  # COCO's, by kind (box, mask)
    by_label: dict[str, dict[int, float]]  # AP by kind and label
    counts: dict[int, int]  # objects by label
    curves: dict[str, NDArray[np.float64]]  # precision by kind, (overlaps, recalls), the mean of the classes


class CocoMetric:
    """Collects what was found and what is there, image by image, and compares at the end, over all processes.

    Of an image and class, ``max_detections`` objects are compared at most, COCO's own 100 at least.
    """

    def __init__(self, *, masks: bool, max_detections: int = 100) -> None:
        self.masks, self.max_detections = masks, max(max_detections, 100)
        # Of each image what is there, and what was found.
        self.objects: list[tuple[list[Row], list[Row]]] = []

    def update(self, found: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Take in the objects found in some images, and those in them.

        Masks are ``rles``, a list of run-length encodings, or ``masks`` (n, height, width).
        """
        for one, target in zip(found, targets, strict=True):
            self.objects.append((self._rows(target), self._rows(one)))

    def _rows(self, values: Mapping[str, Any]) -> list[Row]:
        rles: Sequence[Any] = [None] * len(values["labels"])
        if self.masks:
            rles = values["rles"] if "rles" in values else list(map(_encoded, values["masks"]))
        boxes = values["boxes"].detach().cpu().double()
        boxes[:, 2:] -= boxes[:, :2]
        rows = [
            {"bbox": box, "category_id": label} | ({"segmentation": rle} if rle else {})
            for box, label, rle in zip(boxes.tolist(), values["labels"].tolist(), rles, strict=True)
        ]
        for name, key in (("scores", "score"), ("iscrowd", "iscrowd"), ("area", "area")):
            if name in values:
                for row, value in zip(rows, values[name].tolist(), strict=True):
                    row[key] = value
        return rows

    def compute(self) -> Comparison:
        """Compare; where processes are several, each with what all of them have collected."""
        self.objects = [one for part in devices.gathered(self.objects) for one in part]
        numbers, by_label, curves = {}, {}, {}
        for kind in ("box", "mask") if self.masks else ("box",):
            precision, stats, labels = self._compare(kind)
            numbers[kind] = {name: float(value) for name, value in zip(NUMBERS, stats, strict=True) if value > -1}
            if (counted := precision[precision > -1]).size:
                numbers[kind]["ap"] = float(counted.mean())  # pycocotools' summary has it for a limit of 100 alone
            there: Any = (precision > -1).all((0, 1))
            by_label[kind] = {
                label: float(precision[:, :, place].mean()) for place, label in enumerate(labels) if there[place]
            }
            if there.any():
                curves[kind] = precision[:, :, there].mean(2)
        counts = Counter(row["category_id"] for objects, _ in self.objects for row in objects if not row["iscrowd"])
        return Comparison(numbers, by_label, dict(counts), curves)

    def _compare(self, kind: str) -> tuple[NDArray[np.float64], Sequence[float], list[int]]:
        """Pycocotools' precision (overlaps, recalls, classes), its summary, and the labels; -1 where nothing counts."""
        from pycocotools import mask as coco_mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        labels = sorted({row["category_id"] for pair in self.objects for rows in pair for row in rows})
        sides: list[Any] = []
        for side in (0, 1):
            rows, number = [], 0
            for image, pair in enumerate(self.objects, 1):
                for row in pair[side]:
                    number += 1
                    row = {"id": number, "image_id": image, "iscrowd": 0, **row}
                    if side:  # an object found is as large as what is compared of it
                        width, height = row["bbox"][2:]
                        rle = row.get("segmentation") if kind == "mask" else None
                        row["area"] = coco_mask.area(rle) if rle else width * height  # pyright: ignore
                    rows.append(row)
            coco: Any = COCO()
            coco.dataset = {
                "images": [{"id": image, "height": 0, "width": 0} for image in range(1, len(self.objects) + 1)],
                "annotations": rows,
                "categories": [{"id": label} for label in labels],
            }
            sides.append(coco)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
            for coco in sides:
                coco.createIndex()
            judge: Any = COCOeval(sides[0], sides[1], "segm" if kind == "mask" else "bbox")
            judge.params.maxDets = [1, 10, self.max_detections]
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        return judge.eval["precision"][..., 0, 2], judge.stats, labels

    @property
    def num_images(self) -> int:
        """Number of images taken in; after `compute`, by all processes."""
        return len(self.objects)

    def results(self, image_ids: Sequence[Any], category_ids: Sequence[int]) -> tuple[Row, ...]:
        """List what was found, a row for each object as pycocotools takes it; label 1 is the first category."""
        rows = []
        for image_id, (_, found) in zip(image_ids, self.objects, strict=True):
            for row in found:
                row = {**row, "image_id": image_id, "category_id": category_ids[row["category_id"] - 1]}
                if "segmentation" in row:
                    row["segmentation"] = {**row["segmentation"], "counts": row["segmentation"]["counts"].decode()}
                rows.append(row)
        return tuple(rows)


def _encoded(mask: Tensor) -> Rle:
    return encode(mask.cpu().numpy().astype(bool), 0, 0, (int(mask.shape[0]), int(mask.shape[1])))


def make_report(metric: CocoMetric, classes: Sequence[str]) -> Report:
    """The report of what a metric has collected; label 1 is the first class."""
    numbers, by_label, counts, curves = metric.compute()

    def all_of(kind: str) -> dict[str, float | None]:
        return {name: numbers[kind].get(name) for name in NUMBERS}

    rows = [
        ClassRow(name, counts.get(label, 0), *(by_label.get(kind, {}).get(label) for kind in ("box", "mask")))
        for label, name in enumerate(classes, 1)
    ]
    return Report(
        all_of("box"),
        all_of("mask") if metric.masks else None,
        sum(counts.values()),
        tuple(rows),
        num_images=metric.num_images,
        curves={
            title: {
                f"IoU {overlap:.2f}": tuple(values)
                for overlap, values in zip(OVERLAPS, curves[kind].tolist(), strict=True)
            }
            for kind, title in TITLES.items()
            if kind in curves
        },
    )


def with_masks(found: Sequence[Mapping[str, Any]], images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Detect objects, with the masks of whole images run-length encoded: ``rles``."""
    results = []
    for one, image in zip(found, images, strict=True):
        result = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in one.items()}
        if "masks" in one:
            shapes, boxes = (result[name].detach().cpu().numpy() for name in ("masks", "boxes"))
            result["rles"] = encode_found(shapes[:, 0], boxes, (int(image.shape[1]), int(image.shape[2])))
        results.append(result)
    return results


def evaluate(model: Detector, data: DataOptions, *, num_worst: int = 0, progress: Any = iter) -> Report:
    """Evaluate a detector, left in the mode that it is in, on the validation images.

    Mean and deviation are the model's own. The report shows the ``num_worst`` images with most misses and false alarms;
    ``progress`` wraps the batches.

    Raises:
        DataError: Annotations or classes are not as they must be.
    """
    limit = model.heads.max_detections
    module = DetectionData(data, masks=model.heads.masks, classes=model.classes, splits=("val",), max_detections=limit)
    if data.source != "digit_scenes" and (why := module.found["val"].why_nothing()):
        raise DataError(f"{module.found['val'].path}: nothing can be evaluated: {why}")
    metric, worst = CocoMetric(masks=model.heads.masks, max_detections=limit), Worst(num_worst)
    left_out: list[Unreadable] = []
    image_ids: list[Any] = []
    before = model.preprocessing
    model.preprocessing = replace(before, image_size=data.sides)
    try:
        with model.evaluating():
            for batch in readable(progress(module.val_dataloader()), left_out):
                image_ids += [target["image_id"] for target in batch.targets]
                found = model([image.to(model.mean.device) for image in batch.images])
                metric.update(with_masks(found, batch.images), batch.targets)
                for one, image, target in zip(found, batch.images, batch.targets, strict=True):
                    consider(worst, model, one, image, target)
    finally:
        model.preprocessing = before
    results = metric.results(image_ids, module.category_ids) if data.source == "coco" else None
    return replace(
        make_report(metric, model.classes),
        num_unreadable=len(left_out),
        notes=(*module.notes, *map(str, left_out)),
        results=results,
        worst=worst.sorted(),
    )
