"""LabelMe's JSON files, one for each image: its shapes, as outlines and as pixels."""

import base64
import io
import math
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from .errors import DataError, listed
from .folders import describe_left_out, find_files, find_image, like_val, look_through, name_images
from .images import any_size, check_size, upright_size
from .text import read_json, read_plain_names

# What labels of shapes may be that are no classes, and the first names in a list.
IGNORED, BACKGROUND = "__ignore__", "_background_"
LIST = "labels.txt"
# Shapes with an area, and how many points they have; polygons have three or more. X-AnyLabeling gives a rectangle four,
# and calls the turned one by another name.
_POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,), "oriented_rectangle": (4,), "rotation": (4,)}
TURNED = ("oriented_rectangle", "rotation")
# What is read of a file and of a shape, and what is about the annotating.
_FILE = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth", "lineColor", "fillColor"}
_SHAPE = {"label", "points", "group_id", "shape_type", "flags", "mask", "locked", "line_color", "fill_color"}
_CORNERS = 64  # of the polygon that stands for a circle
_UPRIGHT = 0.5  # pixels between corners of a rectangle that is not turned and its box, as rounding leaves them
_LARGE = 10_000  # radius in pixels, up to which Pillow draws circles quickly
_UNLIKE = 12  # gray levels by which small copies of images differ that are none of one
OTHER_IMAGE = "files of LabelMe hold another image (imageData) than the one that they name, whose shapes may be others"


class Shape(NamedTuple):
    """A shape that has an area; points are from the upper left corner of the image, turned as its EXIF data say."""

    number: int  # in its file, from 1
    label: str
    group: int | None  # which parts of one object share
    kind: str
    points: NDArray[np.float64]  # (n, 2): x, y
    mask: NDArray[np.bool_] | None  # the pixels from the first point of a mask on
    said: dict[str, Any]  # flags that are set, attributes and other entries

    def outline(self) -> NDArray[np.float64]:
        """Its corners (n, 2); many of a circle's."""
        if self.kind == "rectangle":
            (left, top), (right, bottom) = self.points.min(0), self.points.max(0)
            return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        if self.kind == "circle":
            turns = np.arange(_CORNERS) * 2 * math.pi / _CORNERS
            return self.points[0] + math.dist(*self.points) * np.stack([np.cos(turns), np.sin(turns)], 1)
        return self.points

    def edges(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Left and top, right and bottom (2, 2); those of masks and circles within an image of (height, width)."""
        if self.mask is not None:
            places = np.argwhere(self.pixels(size))[:, ::-1]
            return np.stack([places.min(0), places.max(0) + 1.0]) if len(places) else np.zeros((2, 2))
        outline = self.outline().clip(0, size[::-1]) if self.kind == "circle" else self.points
        return np.stack([outline.min(0), outline.max(0)])

    def is_outside(self, size: tuple[int, int]) -> bool:
        """Whether nothing of it lies in an image of (height, width), or a corner lies two pixels beyond."""
        if self.kind in ("mask", "circle"):
            return not self.pixels(size).any()
        low, high = self.edges(size)
        return bool(min(*low, *(size[::-1] - high)) < -2 or min(*high, *(size[::-1] - low)) < 0)

    def is_flat(self) -> bool:
        """Whether its outline is a point or a line."""
        outline = self.outline()
        return self.mask is None and np.linalg.matrix_rank(outline - outline[0]) < 2

    def draw(self, canvas: Image.Image, value: int) -> None:
        """Draw it as LabelMe does: its pixels, those that its outline touches among them, get a value."""
        if self.mask is not None:
            left, top = self.points.min(0).round().astype(int).tolist()
            height, width = self.mask.shape
            canvas.paste(value, (left, top, left + width, top + height), Image.fromarray(self.mask))
        elif self.kind == "circle":
            radius = math.dist(*self.points)
            ends = [*(self.points[0] - radius), *(self.points[0] + radius)]
            if radius <= _LARGE:
                ImageDraw.Draw(canvas).ellipse(ends, value, value)
                return
            y, x = np.ogrid[: canvas.height, : canvas.width]  # which Pillow would walk around for minutes
            canvas.paste(value, mask=Image.fromarray(np.hypot(x - self.points[0, 0], y - self.points[0, 1]) <= radius))
        else:
            ImageDraw.Draw(canvas).polygon([*map(tuple, self.outline().tolist())], value, value)

    def pixels(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Its pixels in an image of (height, width); see `draw`."""
        canvas = Image.new("1", (size[1], size[0]))
        self.draw(canvas, 1)
        return np.asarray(canvas)


class Labelled(NamedTuple):
    """Content of a file about an image."""

    image: str  # its path from the file's folder, perhaps once and elsewhere; empty: not told
    embedded: bool  # whether the file holds the image, too
    small: NDArray[np.float32] | None  # a copy of it with few pixels, in gray
    size: tuple[int, int] | None  # (height, width), where they are told
    shapes: tuple[Shape, ...]
    flags: tuple[str, ...]  # of the image, those that are set
    others: dict[str, Any]  # entries that are not known
    faults: tuple[str, ...]  # shapes that cannot be read
    notes: Counter[str]  # shapes that are not used

    def find_image(self, folder: Path, stems: Mapping[str, Sequence[str]], below: Path, *, apart: bool = False) -> str:
        """The image in a folder that the file is about; see `folders.find_image`.

        The file lies ``below`` the folder, or ``apart`` from it, below another that is laid out alike or not.
        """
        said, within = self.image, below.parent
        if apart:
            said, within = posixpath.normpath((within / said).as_posix()) if said else "", Path()
        return find_image(folder, stems, below, said, "imagePath", within=within)

    def is_of(self, image: Path) -> bool:
        """Whether an image looks like the one that the file holds; yes where this cannot be told."""
        other = _look(image)[1] if self.small is not None else None
        return self.small is None or other is None or float(np.abs(self.small - other).mean()) < _UNLIKE


def read(file: Path) -> Labelled | None:
    """Read a file; None where it is JSON of something else.

    DataError where it is no JSON file, or its entries are of other types.
    """
    try:
        entry = file.stat()
    except OSError:
        return _read(file, 0, 0)  # which says what is wrong
    return _read(file, entry.st_mtime_ns, entry.st_size)


@lru_cache(maxsize=20_000)  # of those that hold their images, each is long to read
def _read(file: Path, changed: int, num_bytes: int) -> Labelled | None:
    del changed, num_bytes
    content = read_json(file)
    if not isinstance(content, dict) or not content.keys() >= {"shapes", "imagePath"}:
        return None
    shapes, image, flags = content["shapes"], content["imagePath"] or "", content.get("flags") or {}
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if not isinstance(shapes, list) or not isinstance(image, str) or not isinstance(flags, dict):
        raise DataError(f"{file}: shapes must be a list, imagePath text and flags an object, as LabelMe writes them")
    if not all(side is None or type(side) is int for side in (height, width)):
        raise DataError(f"{file}: imageHeight {height!r} and imageWidth {width!r} must be whole numbers")
    found, faults, notes = [], [], Counter[str]()
    size, small = None if height is None or width is None else (height, width), None
    if embedded := content.get("imageData"):  # whose size is what counts in LabelMe, too
        own, small = _look(embedded)
        size = size if own is None or size in (own, own[::-1]) else own
        notes["files whose imageData cannot be read"] = own is None
    elif size is None and shapes:
        notes["files without imageHeight and imageWidth, whose shapes are taken as of the image's size"] = 1
    for number, row in enumerate(shapes, 1):
        kind = (row.get("shape_type") or "polygon") if isinstance(row, dict) else ""
        if isinstance(kind, str) and kind and kind != "polygon" and kind not in _POINTS:
            notes[f"shapes of the type {kind}, which has no area, not used"] += 1
            continue
        try:
            found.append(_shape(row, str(kind), number))
        except ValueError as error:
            faults.append(f"shape {number} {error}")
    return Labelled(
        image=PureWindowsPath(image).as_posix() if image else "",
        embedded=bool(embedded),
        small=small,
        size=size,
        shapes=tuple(found),
        flags=tuple(key for key, value in flags.items() if value),
        others={key: value for key, value in content.items() if key not in _FILE},
        faults=tuple(faults),
        notes=notes,
    )


def _look(image: Path | str) -> tuple[tuple[int, int] | None, NDArray[np.float32] | None]:
    """The size (height, width), and a small copy, of an image in a file or in text as base64; None: it cannot be read.

    There is no copy of one whose white cannot be told.
    """
    try:
        with any_size():
            opened = Image.open(image if isinstance(image, Path) else io.BytesIO(base64.b64decode(image)))
        with opened:
            check_size(opened.size, "imageData")
            size = upright_size(opened)
            if opened.mode[0] in "IF":
                return size, None
            opened.draft("L", (64, 64))
            gray = ImageOps.exif_transpose(opened).convert("L")
            return size, np.asarray(gray.resize((8, 8), Image.Resampling.BOX), np.float32)
    except Exception:  # a broken file can raise anything
        return None, None


class Found(NamedTuple):
    """Images of a folder that files of LabelMe are about."""

    files: dict[Path, tuple[Path, Labelled]]  # by image
    faults: dict[str, str]  # what is wrong, by file
    notes: list[str]  # what else lies there, or is not used


def find(folder: Path, split: str, suffixes: Collection[str]) -> Found:
    """Read the files of LabelMe in the folder of a split and those below it, with the images that they are about.

    DataError where there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder} with images and files of LabelMe; {like_val(folder)}see --data.root"
        )
    stems = name_images(folder)
    found: dict[Path, tuple[Path, Labelled]] = {}
    faults: dict[str, str] = {}
    notes, unused = Counter[str](), Counter[str]()
    for file in find_files(folder, ".json"):
        try:
            if (said := read(file)) is None:
                notes["JSON files are none of LabelMe's"] += 1
                continue
            image = Path(os.path.normpath(folder / said.find_image(folder, stems, file.relative_to(folder))))
            if not image.is_file():
                raise DataError(f"is about {image}, which is {'in imageData alone' * said.embedded or 'missing'}")
            if image in found:
                raise DataError(f"is about {image}, as {found[image][0]} is; keep one of them")
        except DataError as error:
            faults[str(file)] = str(error).removeprefix(str(file)).lstrip(": ")
            continue
        found[image] = file, said
        notes += said.notes
        notes[OTHER_IMAGE] += not said.is_of(image)
        for entries in (said.others, *(shape.said for shape in said.shapes)):
            unused.update(key for key, value in entries.items() if value not in (None, "", [], {}))
    images, left_out = look_through(folder, suffixes)
    left_out -= Counter({".json": left_out[".json"]})
    lost = {Path(file).with_suffix("") for file in faults}
    if bare := sum(Path(os.path.normpath(path)) not in found and path.with_suffix("") not in lost for path in images):
        notes["images have no file of LabelMe's, and are not used"] = bare
    told = [f"{split}: {number} {what}" for what, number in (+notes).items()]
    told += [f"left out of {folder}: {describe_left_out(left_out)}"] * bool(left_out)
    told += [f"{split}: {unused.total()} entries of shapes and images are not used: {listed(unused)}"] * bool(unused)
    return Found(dict(sorted(found.items())), faults, told)


def _shape(row: Any, kind: str, number: int) -> Shape:
    """Check a shape that has an area; ValueError says what is wrong."""
    if not isinstance(row, dict):
        raise ValueError("is no object")
    label, group, points = row.get("label"), row.get("group_id"), row.get("points")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"has the label {label!r}; a class is text")
    if not isinstance(group, int | None) or isinstance(group, bool):
        raise ValueError(f"has the group_id {group!r}, which is no whole number")
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    values = [value for point in points for value in point] if isinstance(points, list) and pairs else []
    if not values or not all(type(value) in (int, float) and abs(value) < 1e9 for value in values):
        raise ValueError("has no list of points, two numbers each")
    if len(values) // 2 not in _POINTS.get(kind, range(3, len(values))):
        raise ValueError(f"is a {kind} of {len(values) // 2} points")
    corners = np.array(values, np.float64).reshape(-1, 2)
    mask = _mask(row.get("mask"), corners) if kind == "mask" else None
    if kind == "rectangle" and np.minimum(corners - corners.min(0), corners.max(0) - corners).max() > _UPRIGHT:
        kind = TURNED[0]
    said = {key: value for key, value in row.items() if key not in _SHAPE}
    attributes, flags = said.pop("attributes", None), row.get("flags")
    said |= attributes if isinstance(attributes, dict) else {}
    said |= {key: value for key, value in flags.items() if value} if isinstance(flags, dict) else {}
    return Shape(number, label.strip(), group, kind, corners, mask, said)


def _mask(text: Any, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The pixels of a mask, from its PNG file as text, between two points, which are pixels of it."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            mask = np.asarray(image).astype(np.bool_)
    except Exception as error:  # a broken file can raise anything
        raise ValueError(f"has a mask that cannot be read ({' '.join(str(error).split())[:80]})") from error
    width, height = np.ptp(points, axis=0) + 1
    if mask.ndim != 2 or np.abs(mask.shape - np.array([height, width])).max() > 1:
        raise ValueError(f"has a mask of {mask.shape[::-1]} pixels for a box of {width:g}x{height:g}")
    whole = not (points % 1).any()
    return mask[: int(height), : int(width)] if whole else mask


def num_covered(said: Labelled, size: tuple[int, int]) -> int:
    """Count the shapes of which nothing is seen, as later ones lie upon them."""
    canvas = Image.new("I", (size[1], size[0]))
    for number, shape in enumerate(said.shapes, 1):
        shape.draw(canvas, number)
    return len(said.shapes) - len({*np.unique(np.asarray(canvas)).tolist()} - {0})


def classes(labelled: Iterable[Labelled], names: Path) -> tuple[str, ...]:
    """The classes of a list with a name a line, in its order, where there is such a file; else all labels, sorted."""
    found = read_plain_names(names) if names.is_file() else sorted({s.label for one in labelled for s in one.shapes})
    return tuple(name for name in found if name not in (IGNORED, BACKGROUND))
