"""The images in which a detector is most wrong, with its misses and its false alarms drawn in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_area, box_iou
from torchvision.transforms.v2.functional import normalize, resize, to_dtype

from ...lettering import written
from ..loading import Unreadable
from .data import DataOptions, DetectionData
from .draw import draw
from .model import Detector

# How sure of an object the detector must be, and how far a box must cover an object, to be counted.
SCORE, OVERLAP = 0.5, 0.5


@torch.inference_mode()
def worst(model: Detector, data: DataOptions, *, num: int = 12) -> list[tuple[Image.Image, Tensor, str]]:
    """The validation images with most misses and false alarms.

    Args:
        model: Put into evaluation mode, and left in it.
        data: Which images.
        num: How many at most.

    Returns:
        For each the image with what is wrong drawn in, what the backbone sees of it (3, height, width), and a line
        about it; the worst first.
    """
    module = DetectionData(data, masks=False, classes=model.classes, splits=("val",))
    dataset = module.dataset("val")
    model.eval()
    found: list[tuple[int, int, int]] = []
    details: dict[int, Any] = {}
    for index in range(len(dataset)):
        if isinstance(sample := dataset[index], Unreadable):
            continue
        image, target = sample
        (one,) = model([image.to(model.mean.device)])
        kept = one["scores"] >= SCORE
        boxes, labels = (one[name][kept].cpu() for name in ("boxes", "labels"))
        alarms, missed = mistakes(boxes.float(), labels, target)
        if len(alarms) or len(missed):
            found.append((len(alarms) + len(missed), -index, index))
            details[index] = boxes[alarms], labels[alarms], missed
    images = []
    for _, _, index in sorted(found, reverse=True)[:num]:
        image, target = dataset[index]
        boxes, labels, missed = details[index]
        words = [written(name, id_) for name, id_ in zip(model.classes, model.category_ids, strict=True)]
        names = [f"not {words[label - 1]}" for label in labels.tolist()]
        names += [f"missed {words[label - 1]}" for label in target["labels"][missed].tolist()]
        drawn = draw(
            Image.fromarray(image.permute(1, 2, 0).numpy()),
            np.concatenate([boxes.numpy(), target["boxes"][missed].numpy()]),
            names,
            kinds=[5] * len(boxes) + [4] * len(missed),
        )
        size = model.preprocessing.size((int(image.shape[1]), int(image.shape[2])))
        seen = to_dtype(resize(image, list(size), antialias=True), torch.float32, scale=True)
        seen = normalize(seen, list(model.preprocessing.mean), list(model.preprocessing.std))
        caption = f"{_counted(len(missed), 'miss', 'misses')}, {_counted(len(boxes), 'false alarm', 'false alarms')}"
        images.append((drawn, seen, caption))
    return images


def mistakes(boxes: Tensor, labels: Tensor, target: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Tell which of the boxes found are false alarms, and which of the objects are missed.

    The surest box takes the object of its class that it covers best. A box that lies in a crowd of its class is no
    alarm.

    Args:
        boxes: (n, 4), the surest first.
        labels: (n,).
        target: What there is: ``boxes`` (m, 4), ``labels``, ``iscrowd``.
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
