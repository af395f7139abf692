"""Pascal VOC's XML files, one for each picture, with boxes. Read as COCO's content."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..images import SUFFIXES
from ..loading import DataError
from ..text import read_text
from .coco import Content, picture_size

# Where the challenge keeps the files that its lists name.
ANNOTATIONS = "Annotations"


def find(root: Path, annotations: str) -> list[Path]:
    """The XML files of a split.

    Args:
        root: The folder of the data.
        annotations: From it, a folder of XML files; or a list of names, a line each, of files in ``Annotations``.

    Raises:
        DataError: There is no such folder or file, or a name in the list has none.
    """
    path = root / annotations
    if path.is_dir():
        return sorted(path.glob("*.xml"))
    if not path.is_file():
        raise DataError(
            f"there is no {path}; name a list of pictures, a line each, or a folder of XML files: "
            "--data.train.annotations and --data.val.annotations"
        )
    lines = read_text(path).split("\n")
    names = [(number, _listed(root, line)) for number, line in enumerate(lines, 1) if line.strip()]
    files = [root / ANNOTATIONS / f"{name}.xml" for _, name in names]
    for (number, name), file in zip(names, files, strict=True):
        if not file.is_file():
            raise DataError(f"{path}, line {number}: {name} has no {file}")
    return files


def _listed(root: Path, line: str) -> str:
    """The name in a line of a list, which may have blanks in it, and a number behind it."""
    whole = line.strip()
    likely = re.sub(r"\s+(-1|0|1)$", "", whole)
    for name in (whole, likely, whole.split()[0]):
        if (root / ANNOTATIONS / f"{name}.xml").is_file():
            return name
    return likely


def classes(files: Sequence[Path]) -> tuple[str, ...]:
    """All names of objects in these files, sorted; files that are damaged are left to `read`."""
    names = set()
    for file in files:
        try:
            names |= {_text(thing, "name") for thing in ElementTree.parse(file).iter("object")}
        except ElementTree.ParseError:
            continue
    return tuple(sorted(names - {""}))


def read(root: Path, files: Sequence[Path], *, images: str, names: Sequence[str]) -> Content:
    """Read XML files.

    The picture is the one with the file's name, or the one that the file names. Pixels count from 1, and a box holds
    those of its edges, as in the challenge. Objects marked difficult are objects like others.

    Args:
        root: The folder of the data.
        files: The XML files.
        images: The folder of the pictures, from the root.
        names: Of the classes.
    """
    pictures = {path.stem: path for path in _pictures(root / images)}
    category = {name: number for number, name in enumerate(names, 1)}
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for name, number in category.items()],
    }
    faults: list[str] = []
    for image_id, file in enumerate(files, 1):
        short = file.relative_to(root)
        try:
            tree = ElementTree.parse(file)
        except ElementTree.ParseError as error:
            faults.append(f"{short} is no XML file, or damaged ({error})")
            continue
        path = pictures.get(file.stem) or root / images / (_text(tree, "filename") or file.stem)
        size = _number(tree, "size/height"), _number(tree, "size/width")
        height, width = (int(side or 0) for side in (size if all(size) else picture_size(path) or (0, 0)))
        content["images"].append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        for number, thing in enumerate(tree.iter("object"), 1):
            edges = [_number(thing, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
            name = _text(thing, "name")
            where = f"{short}, object {number}"
            if None in edges:
                faults.append(f"{where}: bndbox needs numbers for xmin, ymin, xmax and ymax")
                continue
            left, top, right, bottom = (edge or 0.0 for edge in edges)
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            content["annotations"].append(
                {"id": where, "image_id": image_id, "category_id": category.get(name, name), "bbox": box}
            )
    return Content(root / images, content, tuple(faults))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the pictures; name it: --data.train.images")
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]


def _text(node: Any, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _number(node: Any, path: str) -> float | None:
    try:
        return float(_text(node, path))
    except ValueError:
        return None
