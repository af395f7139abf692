"""False negatives and false positives of a detector, drawn into the images with most of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_area, box_iou

from ...fonts import written
from ..evaluation import Mistake, Worst
from .draw import draw
from .model import Detector

# How sure of an object the detector must be, and how far a box must cover an object, to be counted.
SCORE, OVERLAP = 0.5, 0.5


def consider(
    worst: Worst, model: Detector, found: Mapping[str, Tensor], image: Tensor, target: Mapping[str, Any]
) -> None:
    """Consider an image for the worst mistakes, by the number of misses and false alarms of a detector there.

    ``found`` has the surest first; the image is of 8 bits, (3, height, width).
    """
    kept = found["scores"] >= SCORE
    boxes, labels = (found[name][kept].cpu() for name in ("boxes", "labels"))
    alarms, missed = mistakes(boxes.float(), labels, target)
    if not alarms and not missed:
        return

    def show() -> Mistake:
        names = [written(name, id_) for name, id_ in zip(model.classes, model.category_ids, strict=True)]
        shown = Image.fromarray(image.permute(1, 2, 0).numpy())
        drawn = draw(
            shown,
            np.concatenate([boxes[alarms].numpy(), target["boxes"][missed].numpy()]),
            [f"not {names[label - 1]}" for label in labels[alarms].tolist()]
            + [f"missed {names[label - 1]}" for label in target["labels"][missed].tolist()],
            kinds=[5] * len(alarms) + [4] * len(missed),
        )
        caption = f"{_counted(len(missed), 'miss', 'misses')}, {_counted(len(alarms), 'false alarm', 'false alarms')}"
        return Mistake([drawn], model.prepare(shown)[0].cpu(), caption)

    worst.add(len(alarms) + len(missed), show)


def mistakes(boxes: Tensor, labels: Tensor, target: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Tell which of the boxes found are false alarms, and which of the objects are missed.

    The surest box, which comes first, takes the object of its class that it covers best. A box that lies in a crowd of
    its class is no alarm.
    """
    crowds = target["iscrowd"] > 0
    overlaps = box_iou(boxes, target["boxes"])  # (n, m)
    same = labels[:, None] == target["labels"]
    free = ~crowds
    alarms = []
    for place in range(len(boxes)):
        candidates = torch.where(same[place] & free, overlaps[place], -1.0)
        if len(candidates) and candidates.max() >= OVERLAP:
            free[candidates.argmax()] = False
            continue
        # Of a crowd it counts which part of the box lies in it.
        together = box_area(boxes[place][None]) + box_area(target["boxes"])
        shared = overlaps[place] * together / (1 + overlaps[place])
        inside = shared / box_area(boxes[place][None]).clamp(min=1e-6)
        if not ((inside >= OVERLAP) & same[place] & crowds).any():
            alarms.append(place)
    return alarms, free.nonzero().flatten().tolist()


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
