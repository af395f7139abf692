"""Annotations in COCO's JSON format, looked through before anything is trained on them."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images import PictureError, any_size, check_size
from ..loading import DataError
from ..text import read_text

# How far a box may reach beyond the picture: converters round, and count pixels from 1.
TOLERANCE = 2.0
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, height and width are exchanged


@dataclass(frozen=True, eq=False)
class Annotated:
    """One picture and what is annotated in it, n objects and crowds.

    Attributes:
        path: Its file.
        image_id: Its id in the annotations.
        size: (height, width).
        boxes: float32 (n, 4): left, top, right, bottom in pixels.
        labels: int64 (n,): places in the list of categories, from 0.
        crowds: bool (n,): regions of many objects of the kind, which count neither way.
        areas: float32 (n,): as annotated.
        segmentations: Polygons or RLE, n of them, as in the file; None where an object has none.
    """

    path: Path
    image_id: int
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    areas: NDArray[np.float32]
    segmentations: tuple[Any, ...]

    def masks(self) -> NDArray[np.uint8]:
        """The instance masks (n, height, width), 0 and 1."""
        masks = np.zeros((len(self.labels), *self.size), np.uint8)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask[:] = decode(segmentation, self.size)
        return masks


@dataclass(frozen=True, eq=False)
class Annotations:
    """A file of annotations that was looked through.

    Attributes:
        pictures: In the order of the file, those without objects among them.
        classes: Names of the categories, in the order of their ids.
        category_ids: Their ids.
        faults: What was wrong and left out, a line each.
    """

    pictures: tuple[Annotated, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    faults: tuple[str, ...]


class Content(NamedTuple):
    """Pictures and annotations as in COCO's JSON, whatever they were read from.

    Attributes:
        images: The folder that the names of pictures start from.
        content: ``images``, ``annotations``, ``categories``.
        faults: What could not be read, a line each.
    """

    images: Path
    content: dict[str, Any]
    faults: tuple[str, ...] = ()


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask (height, width) from polygons, or from RLE, whose counts are a list or a compressed string."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, *size)  # pyright: ignore
        return coco_mask.decode(segmentation)  # pyright: ignore
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))  # pyright: ignore


def read(
    annotations: Path, images: Path, *, masks: bool, invalid: Literal["error", "drop"] = "error"
) -> Annotations:
    """Read annotations and look at each of them, and at each picture's file.

    Args:
        annotations: A JSON file in COCO's format.
        images: The folder of the pictures that it names.
        masks: Whether each object must have a mask.
        invalid: Whether a fault is an error, or what has it is left out; see `check`.

    Raises:
        DataError: The file is not in the format, or has faults, named by file and id.
    """
    content = _content(annotations)
    if not images.is_dir():
        raise DataError(f"there is no folder {images} with the pictures of {annotations}; name the right one")
    return check(Content(images, content), annotations, masks=masks, invalid=invalid)


def check(
    source: Content, annotations: Path, *, masks: bool, invalid: Literal["error", "drop"] = "error"
) -> Annotations:
    """Look at each annotation, and at each picture's file.

    Args:
        source: What was read.
        annotations: Where from, for messages.
        masks: Whether each object must have a mask.
        invalid: Whether a fault is an error, or what has it is left out: an object, or a whole picture whose file is
            missing or has another size.

    Raises:
        DataError: There are faults, named by file and id, or nothing is left.
    """
    images, content = source.images, source.content
    categories = sorted(content["categories"], key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    classes = tuple(str(category.get("name", category["id"])) for category in categories)
    for values, what in ((ids, "id"), (classes, "name")):
        if twice := {value for value in values if values.count(value) > 1}:
            raise DataError(f"{annotations} has two categories of the {what} {min(twice)}; make them differ")
    if not categories:
        raise DataError(f"{annotations} has no categories; there is nothing to learn from it")

    faults = list(source.faults)
    entries = {}
    for entry in content["images"]:
        if fault := _picture_fault(entry, images):
            faults.append(fault)
        elif entry["id"] in entries:
            faults.append(f"picture {entry['id']} ({entry['file_name']}): another picture has this id")
        else:
            entries[entry["id"]] = entry
    listed = {entry.get("id") for entry in content["images"]}
    index = {category: place for place, category in enumerate(ids)}
    objects: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in entries}
    for annotation in content["annotations"]:
        image_id = annotation.get("image_id")
        if image_id not in listed:
            faults.append(
                f"annotation {annotation.get('id')}: there is no picture of id {image_id} in the file"
            )
        elif image_id in entries:
            if fault := _annotation_fault(annotation, entries[image_id], index, masks=masks):
                faults.append(fault)
            else:
                objects[image_id].append(annotation)
    if faults and invalid == "error":
        raise DataError(f"{annotations}: {first(faults)}. Mend them, or set --data.invalid drop")
    if not entries:
        raise DataError(
            f"{annotations} has no pictures that can be used{': ' + first(faults) if faults else ''}"
        )
    pictures = tuple(
        _annotated(entry, objects[image_id], images, index) for image_id, entry in entries.items()
    )
    return Annotations(pictures, classes, ids, tuple(faults))


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"there is no file {path}; name the annotations, a JSON file in COCO's format")
    try:
        content = json.loads(read_text(path))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no JSON file ({' '.join(str(error).split())}); export it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} has no list of {key!r}, so it is not in COCO's format; export it again")
    if not all("id" in category for category in content["categories"]):
        raise DataError(f"{path} has a category without an id; export it again")
    return content


def picture_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a picture, turned as its EXIF data say; None where it cannot be read."""
    try:
        return _size(path)[0]
    except Exception:  # a broken header can raise anything
        return None


def _size(path: Path) -> tuple[tuple[int, int], bool]:
    """(height, width), and whether they were exchanged by the EXIF data."""
    with any_size():
        image = Image.open(path)
    with image:
        check_size(image, str(path))
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        size = (image.width, image.height) if turned else (image.height, image.width)
        return size, turned


def _picture_fault(entry: dict[str, Any], folder: Path) -> str | None:
    name = f"picture {entry.get('id')} ({entry.get('file_name')})"
    if any(key not in entry for key in ("id", "file_name", "width", "height")):
        return f"{name}: id, file_name, width or height is missing"
    path = folder / entry["file_name"]
    if not path.is_file():
        return f"{name}: there is no such file in {folder}"
    try:
        (height, width), turned = _size(path)
    except PictureError as error:  # too large
        return f"{name}: {error.reason}"
    except Exception as error:  # a broken header can raise anything
        return f"{name}: is no picture, or damaged ({' '.join(str(error).split())[:80]})"
    if (width, height) != (entry["width"], entry["height"]):
        hint = ", turned as its EXIF data say," if turned else ""
        return (
            f"{name}: the file{hint} has {width}x{height} pixels, "
            f"the annotations {entry['width']}x{entry['height']}"
        )
    return None


def _annotation_fault(
    annotation: dict[str, Any], entry: dict[str, Any], index: dict[int, int], *, masks: bool
) -> str | None:
    name = f"annotation {annotation.get('id')} of picture {entry['id']} ({entry['file_name']})"
    category, box = annotation.get("category_id"), annotation.get("bbox")
    if category not in index:
        return f"{name}: unknown category id {category}"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"{name}: bbox {box} is not [left, top, width, height]"
    left, top, width, height = box
    if width <= 0 or height <= 0:
        return f"{name}: bbox {box} has no {'width' if width <= 0 else 'height'}"
    beyond = max(-left, -top, left + width - entry["width"], top + height - entry["height"])
    inside = min(left + width, top + height, entry["width"] - left, entry["height"] - top)
    if beyond > TOLERANCE or inside <= 0:
        return f"{name}: bbox {box} lies outside the picture, {entry['width']}x{entry['height']}"
    if not masks:
        return None
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return f"{name}: has no mask; for boxes alone set --heads.masks false"
    if isinstance(segmentation, list) and all(_is_polygon(polygon) for polygon in segmentation):
        return None
    if not isinstance(segmentation, dict):
        return f"{name}: a polygon needs three points or more, as [x, y, x, y, x, y, ...]"
    size = segmentation.get("size")
    if size != [entry["height"], entry["width"]]:
        return f"{name}: its RLE mask has the size {size}, the picture {[entry['height'], entry['width']]}"
    try:
        decode(segmentation, (entry["height"], entry["width"]))
    except Exception as error:  # pycocotools raises what it likes
        return f"{name}: its RLE mask cannot be read ({' '.join(str(error).split())[:80]})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(_is_number(value) for value in polygon)
    )


def _annotated(
    entry: dict[str, Any], objects: list[dict[str, Any]], folder: Path, index: dict[int, int]
) -> Annotated:
    boxes = np.array([annotation["bbox"] for annotation in objects], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    edges = np.array([entry["width"], entry["height"]] * 2, np.float32)
    areas = [annotation.get("area") or math.prod(annotation["bbox"][2:]) for annotation in objects]
    return Annotated(
        path=folder / entry["file_name"],
        image_id=entry["id"],
        size=(entry["height"], entry["width"]),
        boxes=boxes.clip(0, edges),
        labels=np.array([index[annotation["category_id"]] for annotation in objects], np.int64),
        crowds=np.array([bool(annotation.get("iscrowd")) for annotation in objects], np.bool_),
        areas=np.array(areas, np.float32),
        segmentations=tuple(annotation.get("segmentation") for annotation in objects),
    )


def first(faults: Iterable[str], count: int = 3) -> str:
    """The first few, and how many more there are."""
    faults = list(faults)
    more = f"; and {len(faults) - count} more" if len(faults) > count else ""
    return "; ".join(faults[:count]) + more


def same_categories(first: Annotations, second: Annotations) -> Iterator[str]:
    """How the categories of two files differ, a phrase each; nothing where they agree."""
    for one, other, where in ((first, second, "the first"), (second, first, "the second")):
        pairs = set(zip(other.category_ids, other.classes, strict=True))
        only = [pair for pair in zip(one.category_ids, one.classes, strict=True) if pair not in pairs]
        if only:
            yield f"only in {where}: {', '.join(f'{number} {name}' for number, name in only[:5])}"
