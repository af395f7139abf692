"""Checks of each value of an annotation file; all formats come here as COCO's rows."""

import re
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from PIL import Image

from ..errors import Fault
from ..folders import find_file, find_images
from ..images import ImageError, any_size, check_size, oddities, upright_size
from . import masks

# How far a box may reach beyond the image: converters round, and count pixels from 1.
TOLERANCE = 2.0
_KINDS = {str: "text", bool: "true or false", list: "a list", dict: "an object"}

NO_MASK = "has no mask; for boxes alone train with --heads.masks false, or evaluate with it"
AREAS = "areas that are not in pixels by masks or boxes, whose own are taken"
SHORT = "masks that end a pixel before their boxes, right and below, as polygons of cv2.findContours"
SIDEWAYS = "images whose sides EXIF data exchange; annotations are taken as of the image so turned"
UNREAD = "masks that cannot be read or cover no pixel, and that boxes alone do not need"


class ImageRow(NamedTuple):
    """An image as an annotation file lists it."""

    image_id: int | str
    name: str  # from the folder of the images
    path: Path
    size: tuple[int, int]  # (height, width), which are those of the file
    odd: list[str]  # what of the file is not read as it stands


class ObjectRow(NamedTuple):
    """An annotated object, or a crowd."""

    number: Any  # its id in the file
    category_id: int
    box: tuple[float, ...]  # left, top, width and height in pixels
    crowd: bool
    area: float  # in pixels: as annotated, else its mask's, else its box's
    mask: masks.Rle | None  # None also for a crowd without one
    notes: tuple[str, ...]  # what of it was not read as it stands
    group: str  # which parts of one object share; empty: none
    unused: tuple[str, ...]  # its entries and attributes that say something, and that nothing is made of


def whole(row: dict[str, Any], key: str) -> int:
    """A whole number of a row, which may be written as 96.0; else `Fault`."""
    value: Any = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if masks.is_number(value) and value == int(value):
        return int(value)
    exact = isinstance(value, float) and value.is_integer()
    raise Fault(_unlike(key, value, "exact; write it without a fraction" if exact else "a whole number"))


def identity(row: dict[str, Any], key: str) -> int | str:
    """An id, which may also be text; else `Fault`."""
    value = row.get(key)
    return value if isinstance(value, str) else whole(row, key)


def text(row: dict[str, Any], key: str) -> str:
    """Text of a row that is not empty; else `Fault`."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return value
    raise Fault(_unlike(key, value, "text"))


def _unlike(key: str, value: Any, wanted: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"{key} is {'missing' if value is None else 'empty'}"
    kind = f" is {_KINDS[type(value)]}" if type(value) in _KINDS else ""
    return f"{key} {masks.shown(value)}{kind or ' is'}{',' if kind else ''} not {wanted}"


@lru_cache(maxsize=4)
def _elsewhere(folder: Path) -> dict[str, list[str]]:
    """Where below a folder, or beside it, images of a name are, as `_loosely` has it, to hint at."""
    found: dict[str, list[str]] = {}
    for path in find_images(folder.parent):
        found.setdefault(_loosely(path.name), []).append(str(path))
    return found


def _loosely(name: str) -> str:
    """The name of a file without folders and suffix, in small letters, %20 and the like as what they stand for."""
    return PureWindowsPath(unquote(name)).stem.casefold()


def image_row(row: dict[str, Any], folder: Path) -> ImageRow:
    """Check how an image is listed, and its file.

    Fault where a value is of another type, the file is missing or damaged, or has another size.
    """
    image_id, name = identity(row, "id"), text(row, "file_name")
    width, height = whole(row, "width"), whole(row, "height")
    path = find_file(folder, name)
    if not path.is_file():
        others = _elsewhere(folder).get(_loosely(name), [])
        above = next((place for place in folder.parents if (place / name).is_file()), None)
        hint = f"; set --data.train.images, or val, to the folder {above}" if above else ""
        raise Fault(f"there is no such file in {folder}{', but ' * bool(others)}{' and '.join(others[:2])}{hint}")
    try:
        size, turned, odd = _opened(path)
    except ImageError as error:  # too large
        raise Fault(error.reason) from error
    except Exception as error:  # a broken header can raise anything
        raise Fault(f"is no image, or damaged ({' '.join(str(error).split())[:80]})") from error
    if size != (height, width):
        hint = ", turned as its EXIF data say," if turned else ""
        raise Fault(f"the file{hint} has {size[1]}x{size[0]} pixels, the annotations {width}x{height}")
    return ImageRow(image_id, name, path, size, odd)


def image_size(path: Path, notes: Counter[str] | None = None) -> tuple[int, int] | None:
    """(height, width) of an image, turned as its EXIF data say, which is noted; None where it cannot be read."""
    try:
        size, turned, _ = _opened(path)
    except Exception:  # a broken header can raise anything
        return None
    if notes is not None:
        notes[SIDEWAYS] += turned
    return size


def _opened(path: Path) -> tuple[tuple[int, int], bool, list[str]]:
    """(height, width), whether they were exchanged by the EXIF data, and what is not read as it stands."""
    with any_size():
        image = Image.open(path)
    with image:
        check_size(image.size, str(path))
        odd = oddities(image)  # before EXIF data of PNG are looked for, which decodes it
        size = upright_size(image)
        return size, size != (image.height, image.width), odd


def object_row(row: dict[str, Any], size: tuple[int, int], *, with_mask: bool) -> ObjectRow:
    """Check an annotation of an image of (height, width).

    Fault where a value is of another type, the box is empty or outside the image, or the mask cannot be read, covers no
    pixel, or is missing where there must be one.
    """
    if row.get("id") is not None:
        identity(row, "id")
    category, crowd, area = whole(row, "category_id"), row.get("iscrowd"), row.get("area")
    crowd, area = 0 if crowd is None else crowd, 0 if area is None else area
    if isinstance(crowd, str | list | dict) or crowd not in (0, 1):
        raise Fault(f"iscrowd {masks.shown(crowd)} is neither 0 nor 1")
    if not masks.is_number(area) or area < 0:
        raise Fault(_unlike("area", area, "a number of pixels"))
    box = _box(row.get("bbox"), size)
    segmentation = row.get("segmentation")
    tags, attributes = (found if isinstance(found := row.get(key), dict) else {} for key in (TAGS, "attributes"))
    said = row | tags | attributes
    mask, notes = None, _notes(said, box, size)
    if not crowd and _marked(said.get("is_crowd")):
        notes.append("objects marked is_crowd, taken as single ones")
    if with_mask and not segmentation and not crowd:
        raise Fault(NO_MASK)
    if segmentation:
        try:
            mask, said_of_mask = masks.to_rle(segmentation, size)
            notes += said_of_mask * with_mask
            notes += [SHORT] * (with_mask and _is_short(segmentation, box))
        except Fault:
            if with_mask:
                raise
            notes.append(UNREAD)
    covered = masks.area(mask) if mask else 0
    if mask and not covered:
        if with_mask:
            raise Fault("its mask covers no pixel of the image")
        notes.append(UNREAD)
    if mask and covered and (reading := masks.misfit(mask, box)):
        notes.append(f"boxes that {reading}" + "; a box is [left, top, width, height]" * (TAGS not in row))
    whole_box = box[2] * box[3]
    least = max(covered / 2 - 16, min(1, whole_box / 16))
    if area and not crowd and not least <= area <= 2 * max(covered, whole_box) + 16:
        notes.append(AREAS)
        area = 0
    area = area or covered or whole_box
    group = _plain(said.get("group_id", said.get("group")))
    return ObjectRow(
        number=row.get("id"),
        category_id=category,
        box=box,
        crowd=bool(crowd),
        area=area,
        mask=mask if with_mask else None,
        notes=tuple(notes),
        group="" if group in _NOTHING else group,
        unused=tuple(dict.fromkeys([*entries(row | tags, _KNOWN), *entries(attributes, _ATTRIBUTES), *_words(said)])),
    )


def _notes(said: dict[str, Any], box: tuple[float, ...], size: tuple[int, int]) -> list[str]:
    """Note what an object and its attributes say that is not followed."""
    notes = ["boxes cut at the edge of the image"] * (_beyond(box, size) > 0.5)
    if any(_turned(said.get(key)) for key in ANGLES) or said.get("type") == "robndbox":
        notes.append("boxes that say they are rotated, read as upright")
    notes += [f"objects marked {mark}, taken as others" for mark in MARKS if _marked(said.get(mark))]
    return notes


# Of objects that tools leave out, and that are learned from here.
MARKS = ("ignore", "ignored", "difficult", "deleted", "outside")
TAGS = "<tags>"  # where rows that come from XML files keep what their tags say
ANGLES = ("rotation", "angle", "theta", "orientation", "robndbox")
# What else tools write about objects: what is read, what follows from it, and what is about the annotating.
_READ = {"id", "image_id", "category_id", "bbox", "bndbox", "area", "iscrowd", "segmentation", "polygon", "name"}
_KNOWN = _READ | {"attributes", TAGS, "type", *MARKS, *ANGLES}
_KNOWN |= {"category_name", "supercategory", "isbbox", "num_keypoints", "occluded", "truncated", "pose", "parts"}
_KNOWN |= {"keyframe", "track_id", "group", "group_id", "z_order", "source", "verified", "date", "confirmed"}
# Of attributes, whose other names are people's own, those that tools write.
_ATTRIBUTES = {"occluded", "track_id", "keyframe", "group_id", "is_crowd", *MARKS, *ANGLES}
# The same of images, and of a file and its categories.
IMAGE = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured", "path"}
IMAGE |= {"milliseconds"}  # of COCO Annotator: how long it took
FILE = {"images", "annotations", "categories", "info", "licenses", "type"}
CATEGORY = {"id", "name", "supercategory", "color"}
_ANGLE = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?")
_EMPTY = {"", "none", "[]", "{}"}
_NOTHING = _EMPTY | {"0", "0.0", "false", "no"}


def entries(row: dict[str, Any], known: Collection[str]) -> tuple[str, ...]:
    """The keys of a row that say something, be it no, and are not known; marks say nothing by no."""
    said = {key: _plain(value) for key, value in row.items() if key not in known}
    return tuple(key for key, value in said.items() if value not in (_NOTHING if key in MARKS else _EMPTY))


def _plain(value: Any) -> str:
    return str(value).strip().lower()


def _marked(value: Any) -> bool:
    """Tell whether a mark, a truth value, a number or text, says yes."""
    return _plain(value) in ("1", "1.0", "true", "yes")


def _is_short(segmentation: Any, box: tuple[float, ...]) -> bool:
    """Whether polygons of whole numbers are a pixel narrower and lower than their box, as through centres of pixels."""
    nested = isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation)
    if not nested or not all(edge.is_integer() for edge in box):
        return False
    points = np.array([value for part in segmentation for value in part], np.float64).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return not (points % 1).any() and tuple(box) == (*low, *(high - low + 1))


def _turned(value: Any) -> bool:
    """Whether an angle, a number or text such as 30°, says that a box is to be turned."""
    found = _ANGLE.match(_plain(value).replace(",", "."))
    return bool(found) and float(found[0]) % 360 != 0


def _words(said: dict[str, Any]) -> list[str]:
    """The keys of angles that are words, as of a choice of people's own."""
    texts = {key: value for key in ANGLES if isinstance(value := said.get(key), str) and _plain(value) not in _NOTHING}
    return [key for key, value in texts.items() if key != "robndbox" and not _ANGLE.match(_plain(value))]


def _beyond(box: tuple[float, ...], size: tuple[int, int]) -> float:
    """Measure how far a box reaches beyond the image."""
    left, top, width, height = box
    return max(-left, -top, left + width - size[1], top + height - size[0])


def _box(box: Any, size: tuple[int, int]) -> tuple[float, ...]:
    if not isinstance(box, list) or len(box) != 4 or not all(map(masks.is_number, box)):
        raise Fault(f"bbox {masks.shown(box)} is not [left, top, width, height], four numbers")
    left, top, width, height = box
    if width <= 0 or height <= 0:
        raise Fault(f"bbox {box} has no {'width' if width <= 0 else 'height'}")
    if _beyond(tuple(box), size) > TOLERANCE:
        corner = max(left, width) <= size[1] and max(top, height) <= size[0] and left < width and top < height
        hint = "; is it [left, top, right, bottom]? Write width and height" if corner else ""
        raise Fault(f"bbox {box} lies outside the image, {size[1]}x{size[0]}{hint}")
    if max(box) <= 1 < min(size):
        raise Fault(f"bbox {box} is less than a pixel; write pixels, not shares of the image")
    edges = corners([box], size)[0]
    if not (edges[2:] > edges[:2]).all():  # nothing is left of it within the image, or in float32
        raise Fault(f"bbox {box} covers nothing of the image, {size[1]}x{size[0]}")
    return tuple(map(float, box))


def corners(boxes: Any, size: tuple[int, int]) -> np.ndarray:
    """Boxes as left, top, right and bottom within the image: float32 (n, 4)."""
    edges = np.array(boxes, np.float32).reshape(-1, 4)
    edges[:, 2:] += edges[:, :2]
    return edges.clip(0, np.array([size[1], size[0]] * 2, np.float32))
