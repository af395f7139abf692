"""How good a detector is: COCO's average precision, by torchmetrics on pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

# Our names and torchmetrics'. AP is the mean over overlaps from 0.5 to 0.95; small is below 32x32 pixels, large above
# 96x96; AR is the recall with so many detections a picture.
NUMBERS = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
    "ar1": "mar_1",
    "ar10": "mar_10",
    "ar100": "mar_100",
    "ar_small": "mar_small",
    "ar_medium": "mar_medium",
    "ar_large": "mar_large",
}

TITLES = {"box": "Boxes", "mask": "Masks"}
# How much of their union two boxes or masks must share to be of the same object.
OVERLAPS = [0.5 + 0.05 * step for step in range(10)]


@dataclass(frozen=True)
class ClassRow:
    """How well one class is found.

    Attributes:
        name: Of the class.
        num_objects: How many there are, crowds aside.
        box_ap: Average precision of its boxes; None where there is no such object.
        mask_ap: The same of its masks; None also for a detector without masks.
    """

    name: str
    num_objects: int
    box_ap: float | None
    mask_ap: float | None


@dataclass(frozen=True)
class Report:
    """How good a detector is.

    Attributes:
        box: COCO's twelve numbers for boxes, by the names in `NUMBERS`; None where nothing counts for one.
        mask: The same for masks; None for a detector without.
        num_pictures: How many were judged.
        num_objects: How many objects were in them, crowds aside.
        classes: One row for each class.
        precision: Of "Boxes" and "Masks", by the overlap that is asked for, the precision at 101 recalls from 0 to 1;
            the mean of the classes.
    """

    box: dict[str, float | None]
    mask: dict[str, float | None] | None
    num_pictures: int
    num_objects: int
    classes: tuple[ClassRow, ...]
    precision: dict[str, dict[str, tuple[float, ...]]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {
                "class": row.name,
                "num_objects": row.num_objects,
                "box_ap": _rounded(row.box_ap),
                "mask_ap": _rounded(row.mask_ap),
            }
            for row in self.classes
        ]
        return {
            "num_pictures": self.num_pictures,
            "num_objects": self.num_objects,
            "box": {name: _rounded(value) for name, value in self.box.items()},
            "mask": self.mask and {name: _rounded(value) for name, value in self.mask.items()},
            "classes": rows,
        }

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """For people: column heads and rows, the last ones for all classes together."""
        rows: list[Sequence[str]] = [
            (row.name, str(row.num_objects), _percent(row.box_ap), _percent(row.mask_ap))
            for row in self.classes
        ]
        mask = self.mask or {}
        rows.append(("all", str(self.num_objects), _percent(self.box["ap"]), _percent(mask.get("ap"))))
        rows += [
            (name.upper().replace("_", " "), "", _percent(value), _percent(mask.get(name)))
            for name, value in self.box.items()
            if name != "ap"
        ]
        return ("class", "objects", "box AP", "mask AP"), rows


class Comparison(NamedTuple):
    """What was found against what is there. What nothing counts for is left out.

    Attributes:
        numbers: COCO's numbers by kind (``box``, ``mask``).
        by_label: AP by kind and label.
        counts: The number of objects by label.
        curves: Precision by kind: (overlaps, recalls), the mean of the classes.
    """

    numbers: dict[str, dict[str, float]]
    by_label: dict[str, dict[int, float]]
    counts: dict[int, int]
    curves: dict[str, Tensor]


class CocoMetric:
    """Collects what was found and what is there, picture by picture, and compares at the end.

    Results of several processes are put together before they are compared, whatever share of the pictures each has had.

    Args:
        masks: Whether masks are compared beside boxes.
    """

    def __init__(self, *, masks: bool) -> None:
        self.masks = masks
        # Gathered here: torchmetrics' own way wants as many pictures of every process.
        self.metric = MeanAveragePrecision(
            iou_type=("bbox", "segm") if masks else "bbox", extended_summary=True, sync_on_compute=False
        )
        self.metric.warn_on_many_detections = False

    def update(self, found: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Takes in the objects found in some pictures (``masks`` (n, height, width), bool) and those in them."""
        names = ("boxes", "labels", "scores", "masks") if self.masks else ("boxes", "labels", "scores")
        self.metric.update(
            [_plain(one, names) for one in found],
            [_plain(target, (*names, "iscrowd", "area")) for target in targets],
        )

    def compute(self) -> Comparison:
        """Compares; where processes are several, each with what all of them have collected."""
        self._gather()
        if not self.metric.groundtruth_labels:
            return Comparison({"box": {}, "mask": {}}, {"box": {}, "mask": {}}, {}, {})
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks
            result = self.metric.compute()
        numbers, by_label, curves = {}, {}, {}
        for kind, name in (("box", "bbox"), ("mask", "segm")) if self.masks else (("box", "bbox"),):
            prefix = f"{name}_" if self.masks else ""
            values = {ours: float(result[prefix + theirs]) for ours, theirs in NUMBERS.items()}
            numbers[kind] = {ours: value for ours, value in values.items() if value >= 0}
            by_label[kind] = {}
            if (precision := result.get(f"{prefix}precision")) is None:
                continue
            # (overlaps, recalls, classes, areas, detections): all areas, a hundred detections.
            precision = precision[:, :, :, 0, -1]
            there = (precision > -1).all(1).all(0)  # (classes,)
            for place, label in enumerate(result["classes"].flatten().tolist()):
                if there[place]:
                    by_label[kind][label] = precision[:, :, place].mean().item()
            if there.any():
                curves[kind] = precision[:, :, there].mean(2)
        counts: dict[int, int] = {}
        metric: Any = self.metric
        for labels, crowds in zip(metric.groundtruth_labels, metric.groundtruth_crowds, strict=True):
            for label in labels[crowds == 0].tolist():
                counts[label] = counts.get(label, 0) + 1
        return Comparison(numbers, by_label, counts, curves)

    @property
    def num_pictures(self) -> int:
        """How many pictures were taken in; after `compute`, by all processes."""
        return len(self.metric.groundtruth_labels)  # pyright: ignore

    def _gather(self) -> None:
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self.metric.metric_state)
        for name in self.metric.metric_state:
            setattr(self.metric, name, [value for part in parts for value in part[name]])


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
        metric.num_pictures,
        sum(counts.values()),
        tuple(rows),
        {
            title: {
                f"IoU {overlap:.2f}": tuple(values)
                for overlap, values in zip(OVERLAPS, curves[kind].tolist(), strict=True)
            }
            for kind, title in (("box", "Boxes"), ("mask", "Masks"))
            if kind in curves
        },
    )


def _by_overlap(precision: Tensor) -> dict[str, tuple[float, ...]]:
    names = [f"IoU {overlap:.2f}" for overlap in OVERLAPS]
    return dict(zip(names, map(tuple, precision.tolist()), strict=True))


def _plain(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    plain = {name: values[name].detach().cpu() for name in names if name in values}
    if "masks" in plain:
        plain["masks"] = plain["masks"].bool()
    return plain


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
