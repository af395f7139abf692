"""Pascal VOC's XML files, one for each image, with boxes. Read as COCO's rows."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

from ..errors import DataError, Fault
from ..folders import SUFFIXES, find_files, find_image, like_val, name_images
from ..text import read_entries, read_text
from .checks import ANGLES, TAGS, image_size
from .coco import Content

# Where the challenge keeps the files that its lists name.
ANNOTATIONS = "Annotations"
# What a file says of its image that is read, or is about where it comes from.
_ABOUT = {"filename", "folder", "object", "objects", "owner", "path", "segmented", "size", "source"}
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def find(root: Path, annotations: str, *, suffix: str = ".xml", base: str = ANNOTATIONS) -> list[Path]:
    """The files of a split: in a folder from the root, or those in the ``base`` that a file lists, a line each.

    DataError where there is no such folder or file, or a name in the list has none.
    """
    path = root / annotations
    if path.is_dir():
        if not (found := find_files(path, suffix)):
            raise DataError(
                f"there are no {suffix[1:].upper()} files in {path}; name another folder, or another --data.source"
            )
        return found
    if not path.is_file():
        raise DataError(
            f"there is no {path}; {like_val(path)}name a list of images, a line each, or a folder of "
            f"{suffix[1:].upper()} files: --data.train.annotations and --data.val.annotations"
        )
    files = []
    if read_text(path).lstrip().startswith("<"):
        raise DataError(f"{path} is no list of images but XML; name the folder of the XML files, or export Pascal VOC")
    for number, line in read_entries(path):
        name = _listed(root / base, line, suffix)
        file = root / base / f"{name}{suffix}"
        if not file.is_file():
            raise DataError(f"{path}, line {number}: {name} has no {file}")
        files.append(file)
    return files


def _listed(base: Path, line: str, suffix: str) -> str:
    """The name in a line of a list, which may have blanks in it, a number behind it, or a suffix as CVAT writes it."""
    likely = re.sub(r"\s+(-1|0|1)$", "", line)
    for name in (line, likely, likely.strip('"'), line.split()[0]):
        path = PureWindowsPath(name)
        path = path.with_suffix("") if path.suffix.lower() in {*SUFFIXES, suffix} else path
        # A folder that has no such files, such as JPEGImages, may stand before the name.
        known = (base / path.parent.as_posix().lstrip("/")).is_dir()
        for stem in (name, path.as_posix(), *([] if known else [path.name])):
            if (base / f"{stem}{suffix}").is_file():
                return stem
    return likely


def classes(files: Sequence[Path]) -> tuple[str, ...]:
    """All names of objects in these files, sorted; files that are damaged are left to `read`."""
    names = set()
    for file in files:
        try:
            names |= {_text(thing, "name") for thing in _parse(file).iter("object")}
        except Fault:
            continue
    return tuple(sorted(names - {""}))


def read(
    root: Path, files: Sequence[Path], path: Path, *, images: str, names: Sequence[str], first_pixel: int = 1
) -> Content:
    """Read XML files that ``path`` lists, as COCO's rows.

    The image is the one that the file names, or the one with the file's name. Pixels count from 1, and a box holds
    those of its edges, as in the challenge; where ``first_pixel`` is 0, right and bottom are edges of the box instead.
    Objects marked difficult are objects like others.
    """
    folder = root / images
    stems = name_images(folder)
    category = {name: number for number, name in enumerate(names, 1)}
    once = list(dict.fromkeys(files))
    content = Content.empty(path, folder, enumerate(names, 1))
    content.places, content.used, notes = (folder, *{file.parent for file in once}), once, content.notes
    notes["lines listed twice, read once"] = len(files) - len(once)
    if path.is_file():
        of_none = "lines of the list that end in -1, as of images without objects of one class, read like others"
        notes[of_none] = len(re.findall(r"\s-1\s*$", read_text(path), re.MULTILINE))
    for file in once:
        short = file.relative_to(root)
        with content.reading(short):
            tree = _parse(file)
            if not any(tree.find(tag) is not None for tag in ("filename", "size", "object", "objects")):
                cvat = ", CVAT's own format; export as Pascal VOC" * (tree.tag == "annotations")
                raise Fault(f"is no file of Pascal VOC: it has <{tree.tag}>{cvat}")
            below = file.relative_to(root / ANNOTATIONS) if file.is_relative_to(root / ANNOTATIONS) else file
            name = find_image(folder, stems, below, _text(tree, "filename"), "<filename>")
            if twice := _twice(tree, "filename", "size"):
                raise Fault(f"has two {twice}; keep one")
            sides = [_number(tree, f"size/{side}") for side in ("height", "width")]
            size = sides if all(sides) else image_size(folder / name, notes) or (1, 1)
            others = {tag.tag: _text(tag, ".") or "1" * len(tag) for tag in tree if tag.tag not in _ABOUT}
            content.add_image(name, size, others)
            said = " ".join(text for tag in ("owner", "source") for node in tree.iter(tag) for text in node.itertext())
            if first_pixel and "label studio" in said.casefold():
                notes["files of Label Studio, whose edges count from 0; set --data.first_pixel 0"] += 1
            for number, thing in enumerate(tree.iter("object"), 1):
                with content.reading(where := f"{short}, object {number}"):
                    content.add_object(where, _object(thing, category, first_pixel, notes))
    return content


def _object(thing: Any, category: Mapping[str, int], first_pixel: int, notes: Counter[str]) -> dict[str, Any]:
    """Convert an object to a row, or raise a Fault."""
    if twice := _twice(thing, "bndbox", "name") or _twice(thing.find("bndbox"), *_EDGES):
        raise Fault(f"has two {twice}; keep one, or make two objects")
    edges = [_number(thing, f"bndbox/{edge}") for edge in _EDGES]
    if None in edges:
        raise Fault("bndbox needs numbers for xmin, ymin, xmax and ymax")
    if (label := _text(thing, "name")) not in category:
        raise Fault(f"unknown class {label!r}" if label else "has no name")
    left, top, right, bottom = (edge or 0.0 for edge in edges)
    if max(left, top, right, bottom) <= 1 and (right % 1 or bottom % 1):
        raise Fault("its edges are less than a pixel; write pixels, not shares of the image")
    if first_pixel and any("." in _text(thing, f"bndbox/{edge}") for edge in _EDGES):
        notes["boxes with decimal points, as of edges from 0 on; if so, set --data.first_pixel 0"] += 1
    if first_pixel and min(left, top) < 1:
        notes["boxes from pixel 0 on; if pixels count from 0, set --data.first_pixel 0"] += 1
    return {
        "category_id": category[label],
        "bbox": [left - first_pixel, top - first_pixel, right - left + first_pixel, bottom - top + first_pixel],
        "segmentation": _polygons(thing, first_pixel),
        TAGS: _tags(thing),
        "attributes": {_text(one, "name"): _text(one, "value") for one in thing.iter("attribute")},
    }


def _parse(file: Path) -> Any:
    """Read the root of an XML file, all tags without a namespace and in small letters; a Fault where it is damaged."""
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # of an unknown encoding, say
        raise Fault(f"is no XML file, or damaged ({error})") from error
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2].lower()
    return root


def _tags(thing: Any) -> dict[str, str]:
    """Collect what an object says by its own tags, and by angles in it."""
    said = {tag.tag: _text(tag, ".") or "1" * len(tag) for tag in thing}
    return said | {tag.tag: _text(tag, ".") or "1" for name in ANGLES for tag in thing.iter(name)}


def _twice(node: Any, *tags: str) -> str:
    """Find a tag that is there more than once."""
    return next((tag for tag in tags if node is not None and len(node.findall(tag)) > 1), "")


def _polygons(thing: Any, first_pixel: int) -> list[list[float]]:
    """The polygons that RectLabel and Roboflow write beside a box, x1 y1 x2 y2 and so on; [] where there is none."""
    polygons = []
    for polygon in (one for one in thing.findall("polygon") if len(one)):
        numbers = [_number(polygon, tag.tag) for tag in polygon if re.fullmatch(r"[xy]\d+", tag.tag)]
        polygons.append([number - first_pixel for number in numbers if number is not None])
    return polygons


def _text(node: Any, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _number(node: Any, path: str) -> float | None:
    try:
        return float(_text(node, path))
    except ValueError:
        return None
