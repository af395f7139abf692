"""Doubts about annotations that are no faults of their own: noted, or read as they must be meant."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from .checks import AREAS, ObjectRow

# Intersection over union from which on two boxes may be meant as one; the other where no edge differs by 2 pixels.
OVERLAP, SMALL_OVERLAP = 0.9, 0.5


def note_corners(objects: Sequence[ObjectRow], notes: Counter[str]) -> None:
    """Say where boxes seem to be [left, top, right, bottom]: where either this or width and height gives all areas."""
    boxes = np.array([one.box for one in objects], np.float64).reshape(-1, 4)
    areas = np.array([one.area for one in objects])
    sides = boxes[:, 2:] - boxes[:, :2]
    alike = (sides > 0).all(1) & np.isclose(sides.prod(1), areas, rtol=0.01)
    unlike = ~np.isclose(boxes[:, 2] * boxes[:, 3], areas, rtol=0.01)
    if len(boxes) > 1 and (alike | ~unlike).all() and unlike.any():
        notes["boxes that are [left, top, right, bottom] by their areas; a box is [left, top, width, height]"] = int(
            unlike.sum()
        )


def note_scale(boxes: Sequence[NDArray[np.float32]], sizes: Sequence[tuple[int, int]], notes: Counter[str]) -> None:
    """Say where all of many objects are left and above, as where images were enlarged and annotations not."""
    reach = [of[:, 2:] / size[::-1] for of, size in zip(boxes, sizes, strict=True) if len(of)]
    number = sum(map(len, reach))
    if number >= 8 and np.concatenate(reach).max() < 0.6:
        notes["objects, all in the left and upper part of their images; do boxes and images have the same scale?"] = (
            number
        )


def take_areas(objects: dict[int | str, list[ObjectRow]], notes: Counter[str]) -> None:
    """Take the areas of boxes where all that are annotated are the same share of them, as in another unit."""
    rows = [one for some in objects.values() for one in some]
    boxes = np.array([one.box[2] * one.box[3] for one in rows])
    shares = np.array([one.area for one in rows]) / boxes
    if len({*boxes}) > 1 and np.ptp(shares) < 0.01 * shares.max() and not 0.3 < shares.mean() < 1.05:
        notes[AREAS] += len(rows)
        for image_id, some in objects.items():
            objects[image_id] = [one._replace(area=one.box[2] * one.box[3]) for one in some]


def note_overlaps(images: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]], notes: Counter[str]) -> None:
    """Say how many objects, boxes and labels of an image, share nearly all with one before, as of two annotators.

    Boxes at the very same place with different labels are told elsewhere.
    """
    for boxes, labels in images:
        edges = torch.from_numpy(boxes)
        apart, shared = np.abs(boxes[:, None] - boxes).max(-1), box_iou(edges, edges).tril(-1).numpy()
        near = (shared >= OVERLAP) | ((shared >= SMALL_OVERLAP) & (apart < 2))
        near &= (boxes[:, None] != boxes).any(-1) | (labels[:, None] == labels)
        notes["objects whose boxes are nearly those of others, all kept; are they of several annotators?"] += int(
            near.any(1).sum()
        )


def num_grouped(objects: Mapping[int | str, Sequence[ObjectRow]]) -> int:
    """Count the objects that may be parts of one, as their image, class and group are the same."""
    groups = Counter(
        (image_id, one.category_id, one.group) for image_id, some in objects.items() for one in some if one.group
    )
    return sum(count for count in groups.values() if count > 1)


def note_crowds(objects: Sequence[ObjectRow], notes: Counter[str]) -> None:
    """Say how many crowds are no larger than usual objects: tools write objects with holes or in parts as such."""
    sizes = [one.area for one in objects if not one.crowd]
    usual = median(sizes) if sizes else 0
    if small := sum(one.crowd and one.area <= usual for one in objects):
        notes["crowds no larger than most objects; if they are single objects, set --data.crowds objects"] = small
