"""Instance masks as COCO writes them, polygons or run lengths (RLE), and as pixels.

A run-length encoding here is a dictionary as pycocotools has it: ``size`` [height, width] and ``counts``, compressed to
bytes. Counts are the lengths of runs of 0 and 1 in turn, down the columns, from the left.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image

from ..errors import Fault

Rle = dict[str, Any]
STRAYS = "polygons of which parts with fewer than three points are left out"
CROSSED = "polygons of four corners whose outlines cross themselves; are the corners in order?"
HOLES = "objects with a polygon inside another, as of a hole, which is filled"
# How far a polygon may reach outside its image, in sides of the image: pycocotools walks along it in small steps.
_MAX_REACH = 4


def _coco() -> Any:
    """pycocotools, which is not needed for boxes alone."""
    from pycocotools import mask

    return mask


def to_rle(segmentation: Any, size: tuple[int, int]) -> tuple[Rle, list[str]]:
    """Read a mask from a COCO file, for an image of (height, width).

    It may be polygons, one flat polygon as VIA writes it, or RLE with its counts as a list or compressed. Also notes
    what of it was not read as it may be meant. Fault where it is none of these, or its counts do not fill the image.
    """
    if isinstance(segmentation, dict):
        return _from_counts(segmentation, size), []
    if not isinstance(segmentation, list):
        raise Fault(f"segmentation {shown(segmentation)} is neither a list of polygons nor RLE")
    parts = segmentation if all(isinstance(part, list) for part in segmentation) else [segmentation]
    for part in parts:
        if not all(is_number(value) for value in part) or len(part) % 2:
            raise Fault(f"polygon {shown(part)} is not [x, y, x, y, x, y, ...]")
        if len(part) and (np.abs(part).reshape(-1, 2) > _MAX_REACH * np.array(size[::-1])).any():
            raise Fault(f"polygon {shown(part)} lies outside the image, {size[1]}x{size[0]}")
    polygons = [part for part in parts if len(part) >= 6]
    if not polygons:
        raise Fault("a polygon needs three points or more, as [x, y, x, y, x, y, ...]")
    rles = _coco().frPyObjects(polygons, *size)
    notes = [STRAYS] * (len(polygons) < len(parts))
    if len(rles) > 1:  # the share of each that lies in each
        shares = _coco().iou(rles, rles, [1] * len(rles))
        notes += [HOLES] * bool((shares - np.eye(len(rles)) >= 1).any())
    merged = _coco().merge(rles)
    return merged, notes + [CROSSED] * bool(len(polygons) == 1 and _crosses(polygons[0], area(merged)))


def _crosses(polygon: list[float], covered: int) -> bool:
    """Whether a polygon of four corners covers more pixels than its outline goes around, as of corners out of order.

    One of more points may touch itself, as where a bridge joins two parts, and goes around them in two directions.
    """
    points = np.array(polygon, np.float64).reshape(-1, 2)
    after = np.roll(points, -1, 0)
    inside = abs(points[:, 0] @ after[:, 1] - points[:, 1] @ after[:, 0]) / 2
    return len(points) == 4 and covered - inside > covered / 4 + np.abs(after - points).sum() / 2


def _from_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> Rle:
    if segmentation.get("size") != list(size):
        raise Fault(f"its RLE mask has the size {shown(segmentation.get('size'))}, the image {list(size)}")
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        if not all(is_number(count) and count == int(count) for count in counts):
            raise Fault(f"its RLE mask cannot be read: counts {shown(counts)} are not whole numbers")
        runs = np.array([int(count) for count in counts], np.int64)
    elif isinstance(counts, str | bytes):
        runs = _runs(counts if isinstance(counts, bytes) else counts.encode("utf-8", "replace"))
    else:
        raise Fault("its RLE mask cannot be read: it has no counts")
    total, pixels = sum(runs.tolist()), size[0] * size[1]
    if (runs < 0).any() or total != pixels:
        told = "some are negative" if (runs < 0).any() else f"{total} of {pixels} pixels"
        raise Fault(f"the counts of its RLE mask do not fill the image: {told}")
    return _coco().frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)


def _runs(text: bytes) -> NDArray[np.int64]:
    """The counts in a compressed string: 5 bits a character, low ones first, each as a step from two before it."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(~codes & 0x20)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        raise Fault("its RLE mask cannot be read: counts are cut off or no compressed counts")
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    if places.max() > 50:
        raise Fault("its RLE mask cannot be read: a count is too large")
    runs = np.add.reduceat((codes & 0x1F) << places, starts)
    runs -= np.where(codes[ends] & 0x10, 1 << (places[ends] + 5), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def shown(value: Any) -> str:
    """A value for a message, as JSON would have it, cut to a few words."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def area(rle: Rle) -> int:
    """The number of pixels of a mask."""
    return int(_coco().area(rle))


def misfit(rle: Rle, box: tuple[float, ...]) -> str:
    """Describe how a box (left, top, width, height) differs from that of a mask; empty where it is roughly that."""
    own, given = _coco().toBbox(rle), np.array(box, np.float64)
    edges, (x, y, w, h) = own + np.concatenate([[0, 0], own[:2]]), box
    far = np.abs(edges - [x, y, x + w, y + h]).max()
    if far <= 3:
        return ""
    readings = {
        "are [left, top, right, bottom] by their masks": (x, y, w, h),
        "are around [x, y] as their centre by their masks": (x - w / 2, y - h / 2, x + w / 2, y + h / 2),
        "are [top, left, height, width] by their masks": (y, x, y + h, x + w),
        "are [top, left, bottom, right] by their masks": (y, x, h, w),
        "have width and height in place of right and bottom by their masks": (x, y, x + x + w, y + y + h),
    }
    for reading, other in readings.items():
        if np.abs(edges - other).max() <= 2:
            return reading
    alike = far <= 6 or float(_coco().iou(own[None], given[None], [0])[0, 0]) >= 0.5
    return "" if alike else "do not fit their masks"


def decode(rle: Rle) -> NDArray[np.uint8]:
    """The pixels of a mask, (height, width), 0 and 1."""
    return _coco().decode(rle)


def encode(part: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> Rle:
    """Encode the mask of an image of (height, width) from a part of it, at top and left, that has all its pixels.

    Only the part is looked at: an image of 24 million pixels has some hundred objects.
    """
    height, width = size
    columns = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    columns[:, 1:-1] = part.T
    steps = np.diff(columns, axis=1)  # (columns, rows + 1)
    starts, ends = (
        (left + column) * height + top + row for column, row in (np.nonzero(steps == sign) for sign in (1, -1))
    )
    # A run that goes on from the last row of a column to the first of the next is one.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.r_[True, apart][: len(starts)]], ends[np.r_[apart, True][: len(ends)]]
    edges = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [height * width]])
    counts = np.diff(edges).tolist()
    if len(counts) > 1 and not counts[-1]:
        counts.pop()
    return _coco().frPyObjects({"size": [height, width], "counts": counts}, height, width)


def paste(
    shape: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], int, int]:
    """Enlarge the mask, (28, 28) from 0 to 1, that a detector gives for a box to pixels of the image, as torchvision.

    Gives the part of an image of (height, width) that can hold pixels of the object, (rows, columns), and its top and
    left.
    """
    mask, scale = expand_masks(torch.from_numpy(np.ascontiguousarray(shape))[None, None], 1)
    edges = expand_boxes(torch.from_numpy(np.asarray(box))[None].float(), scale)[0].long().tolist()
    left, top = max(edges[0], 0), max(edges[1], 0)
    right, bottom = min(edges[2] + 1, size[1]), min(edges[3] + 1, size[0])
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.float32), 0, 0
    within = torch.tensor([edges[0] - left, edges[1] - top, edges[2] - left, edges[3] - top])
    return paste_mask_in_image(mask[0, 0], within, bottom - top, right - left).numpy(), top, left


def encode_found(shapes: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int]) -> list[Rle]:
    """The masks of the objects that were found in an image, encoded one by one from their boxes; see `paste`."""
    pasted = (paste(shape, box, size) for shape, box in zip(shapes, boxes, strict=True))
    return [encode(part >= 0.5, top, left, size) for part, top, left in pasted]
