"""YOLO's text files: a line for each object, in shares of the image's width and height. Read as COCO's rows."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, Fault
from ..folders import SUFFIXES, find_file, find_images, lies_in_junk
from ..text import read_entries, read_text
from . import names as names_of
from .checks import image_size
from .coco import Content
from .names import Names, within

# As Ultralytics reads them: float() of Python would also take 1_0, nan and infinity.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What data.yaml may say that is not about what is learned from.
_KNOWN = {"path", "names", "nc", "kpt_shape", "flip_idx", "kpt_names"}
_KNOWN |= {"skeleton", "roboflow", "download", "license", "author", "date", "version", "task", "stride", "channels"}
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}


def read(root: Path, split: str, *, images: str | None, names: str, sizes: bool = True) -> Content:
    """Read a split as Ultralytics lays it out.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``: the name of the folder ``images`` is exchanged.
    Where no folder has this name, in capitals or not, they lie beside the images. An image without a file has no
    objects. A line is ``class x y width height``, from the box's centre, or ``class x y x y x y ...``, a polygon. Where
    the YAML file has ``kpt_shape``, keypoints follow the box, which are not learned.

    From the root, ``images`` is a folder, or a text file that lists them; None: what the YAML file says, else
    ``images/<split>``. ``names`` is that file, with ``names``, or a text file with a class a line. Without ``sizes``
    images are not opened, and boxes are of images of one pixel. DataError where there is no such file or folder, or no
    names in the file.
    """
    about = names_of.read(root / names)
    sources = _sources(root, split, images, about)
    folder = sources[0] if len(sources) == 1 and sources[0].is_dir() else root
    content = Content.empty(about.path, folder, about.names.items())
    notes, faults = content.notes, content.faults
    files: dict[Path, None] = {}
    for place in sources:
        found = find_images(place) if place.is_dir() else _listed(place, root, about)
        notes[f"images listed twice in {split}, read once"] += len(found) - len(set(found) - files.keys())
        files |= dict.fromkeys(found)
    named = {path: _label(path, root) for path in files}
    labels = {place: _labels(place, root) for place in sources if place.is_dir()}
    for place, beside in labels.items():
        if not beside.is_dir():
            raise DataError(f"there is no folder {beside} with the labels of {place}")
    _note_entries(about, root, notes, named=bool(images))
    parents = dict.fromkeys(path.parent for pair in named.items() for path in reversed(pair))
    content.places = (*labels, *labels.values(), *parents)
    labelled = {file for path, file in named.items() if f"{path.stem}.txt" in names_of.LISTS}  # of images so called
    if contradictions := names_of.compare(about, root, dict.fromkeys(content.places), notes, labels=labelled):
        raise DataError(f"{about.path}: {contradictions[0]}")
    owners: dict[Path, Path] = {}
    lines: list[list[str]] = []
    content.used = used = [place for place in sources if place.is_file()]
    bare: list[Path] = []
    for path, file in named.items():
        if (other := owners.setdefault(file, path)) != path:
            faults.append(f"{within(path, root)} has the name of {other.name}, whose labels these are")
            continue
        # What is wrong with an image is said by who checks all.
        height, width = (image_size(path, notes) if sizes else None) or (1, 1)
        content.add_image(os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path), (height, width))
        if not file.is_file():
            bare.append(path)
            continue
        used.append(file)
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if line.strip():
                lines.append(line.split())
                where = f"{within(file, root)}, line {number}"
                try:
                    content.add_object(where, _annotation(line, width=width, height=height, keypoints=about.keypoints))
                except Fault as fault:
                    faults.append(f"{where}: {fault}")
    for file, path in _apart(bare, root):
        place = "beside its image" if file.parent == path.parent else f"apart from {within(path, root)}"
        looked = within(_label(path, root).parent, root)
        faults.append(f"{within(file, root)} lies {place}; labels are read from {looked}")
        used.append(file)
    if split == "train" and len(bare) == len(files) > 0 and not faults:
        looked = within(_label(bare[0], root), root)
        raise DataError(f"{root}: nothing to learn from: none of {len(bare)} images has labels, looked for as {looked}")
    _note_forms(lines, about, notes)
    for beside in labels.values():
        for file in sorted(beside.rglob("*.txt")):
            if file not in owners and not _is_list(file) and not lies_in_junk(file, beside):
                faults.append(f"{within(file, root)}: there is no such image in {split}{_other_image(file)}")
                used.append(file)
    return content


def _note_entries(about: Names, root: Path, notes: Counter[str], *, named: bool) -> None:
    """Note entries of a YAML file that are not followed; ``named``: whether images are named elsewhere."""
    empty = {key for keys in _SPLITS.values() for key in keys if about.content.get(key) == ""}
    if unknown := sorted(set(about.content) - _KNOWN - empty - {_entry(about, one) for one in _SPLITS}):
        notes[f"entries of {about.path.name} not used ({', '.join(unknown)})"] = len(unknown)
    if path := about.content.get("path"):
        if not (_path(about) and (root / path).is_dir()):
            notes[f"path of {about.path.name} that is no folder here; data.root is taken"] = 1
        elif not named and not (root / path).resolve().is_relative_to(root.resolve()):
            notes[f"path of {about.path.name}, {path}, that is followed in place of data.root"] = 1


def _note_forms(lines: list[list[str]], about: Names, notes: Counter[str]) -> None:
    """Count lines that may be meant as something else than boxes and polygons; DataError where all are keypoints."""
    longer = [line for line in lines if len(line) > 5]
    if about.keypoints:
        notes["boxes with keypoints, which are not learned"] = len(longer)
        return
    numeric = all(map(_NUMBER.fullmatch, chain(*longer)))
    if alike := _keypoints(longer):
        numbers = sorted(set(alike))
        if len(alike) == len(longer):
            raise DataError(
                f"{about.path}: the labels look like boxes with {' or '.join(map(str, numbers))} keypoints each; "
                f"write kpt_shape: [{numbers[-1]}, 3] into data.yaml"
            )
        notes["lines that look like a box and its keypoints, read as polygons"] = len(alike)
    elif numeric and (alike := _points(longer)):
        notes["lines that may be a box and its keypoints (then write kpt_shape), read as polygons"] = alike
    elif numeric and (alike := _results(longer)):
        notes["lines that may be a box, its score and a number, read as polygons"] = alike
    elif numeric and (turned := _turned(longer)):
        notes["lines of four corners, as of rotated boxes (OBB), read as polygons whose boxes are upright"] = turned
    if longer:
        notes["boxes among polygons, which may be two corners of a mask"] = sum(len(line) == 5 for line in lines)


def _is_list(file: Path) -> bool:
    return file.name in ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt")


def _sources(root: Path, split: str, images: str | None, about: Names) -> list[Path]:
    """The folders and lists that hold the images of a split."""
    if images:
        entries, key = [images], f"--data.{split}.images"
    else:
        key = _entry(about, split)
        entry = about.content[key] if key else f"images/{split}"
        entries, key = entry if isinstance(entry, list) else [entry], f"{about.path.name}, {key or split}"
    if wrong := [entry for entry in entries if not isinstance(entry, str)] or ([entries] * (not entries)):
        raise DataError(f"{key}: {wrong[0]!r} is no folder, no text file, nor a list of these")
    bases = [root] if images else [root / about.content["path"], root] if _path(about) else [root]
    found = []
    for entry in entries:
        # Some exporters write a folder a level too high.
        tries = [find_file(base, name) for base in bases for name in (entry, entry.removeprefix("../"))]
        place = next((path for path in tries if path.is_dir() or _is_text(path)), None)
        if place is None:
            raise DataError(
                f"there is no folder {tries[0]}, nor a text file of that name ({key}: {entry!r}); name that of the "
                f"images: --data.{split}.images"
            )
        found.append(place)
    return found


def _entry(about: Names, split: str) -> str:
    """The key of a YAML file that says where the images of a split are; empty where none does."""
    return next((key for key in _SPLITS[split] if about.content.get(key, "") != ""), "")


def _path(about: Names) -> bool:
    return isinstance(about.content.get("path"), str) and bool(about.content["path"])


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in SUFFIXES


def _listed(file: Path, root: Path, about: Names) -> list[Path]:
    """The images that a text file lists, from its own folder, the root, or the path in the YAML file."""
    bases = [file.parent, root, *([root / about.content["path"]] if _path(about) else [])]
    found = []
    for _, line in read_entries(file):
        names = (line, *([line.split("/", 1)[1]] if "/" in line else []))  # Darknet puts data/ first
        tries = [find_file(base, name) for name in names for base in bases]
        path = next((path for path in tries if path.is_file()), None)
        if path is None:
            raise DataError(
                f"{file}: there is no image {line!r} in {' or '.join(dict.fromkeys(map(str, (file.parent, root))))}"
            )
        found.append(Path(os.path.normpath(path)))
    return found


def _labels(path: Path, root: Path) -> Path:
    """Where the labels of a folder or an image are: the last folder called images is exchanged."""
    parts = list(within(path, root).parts)
    alike = [place for place, part in enumerate(parts) if part.lower() == "images"]
    if not alike:
        return path
    tries = [root.joinpath(*parts[: alike[-1]], name) for name in ("labels", "Labels", "LABELS")]
    folder = next((other for other in tries if other.is_dir()), tries[0])
    return folder.joinpath(*parts[alike[-1] + 1 :])


def _label(image: Path, root: Path) -> Path:
    """The labels of an image."""
    file = _labels(image, root).with_suffix(".txt")
    return find_file(file.parent, file.name)


def _apart(bare: list[Path], root: Path) -> Iterable[tuple[Path, Path]]:
    """Text files that are called like images without labels, and belong to no other; each with that image.

    What Ultralytics finds, in its folder ``runs``, is left out.
    """
    expected = {_label(image, root) for image in find_images(root)} if bare else set()
    apart: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*.txt")) if bare else ():
        known = _is_list(file) or lies_in_junk(file, root) or "runs" in within(file, root).parts
        if file not in expected and not known:
            apart.setdefault(file.stem, []).append(file)
    for path in bare:
        if found := apart.get(path.stem):
            likely = [file for file in found if file.parent == path.parent]
            likely += [file for file in found if file.parent.name == path.parent.name]
            yield (likely or found)[0], path


def _other_image(file: Path) -> str:
    """Files of the name of labels that are no images known here, such as .heic."""
    parts = ["images" if part == "labels" else part for part in file.parts]
    for other in Path(*parts).parent.glob(f"{file.stem}.*"):
        if other.suffix != ".txt" and other.stem == file.stem:
            thumbnail = other.suffix.lower() in SUFFIXES
            return f", but {other.name}, which {'is left out as a thumbnail' if thumbnail else 'cannot be read'}"
    return ""


def _keypoints(lines: list[list[str]]) -> list[int]:
    """Count the keypoints that lines seem to have behind their boxes: x, y, and whether it is seen, as 0, 1 or 2.

    Without the last number they cannot be told from polygons.
    """
    found = []
    for line in lines:
        number, rest = divmod(len(line) - 5, 3)
        flagged = all(re.fullmatch(r"[012](\.0*)?", word) for word in line[7::3])
        if number > 0 and not rest and flagged and all(map(_NUMBER.fullmatch, line)):
            found += [number] * _holds(*map(float, line[1:5]))
    return found


def _points(longer: list[list[str]]) -> int:
    """Count the lines longer than a box, where each is a box around all points behind it, of x and y."""
    alike = len({len(line) for line in longer}) == 1
    return len(longer) if alike and all(_holds(*map(float, line[1:])) for line in longer) else 0


def _results(longer: list[list[str]]) -> int:
    """Count the lines longer than a box, where each is a box with a share and a whole number, as of trackers."""
    alike = all(len(line) == 7 and line[6].isdecimal() for line in longer)
    return len(longer) if alike and all(_holds(*map(float, line[1:5])) for line in longer) else 0


def _turned(longer: list[list[str]]) -> int:
    """Count the lines of four corners that are no upright box, where all that are longer than a box have four."""
    if not all(len(line) == 9 for line in longer):
        return 0
    corners = np.array([line[1:] for line in longer], np.float64).reshape(-1, 4, 2)
    inside = np.minimum(corners - corners.min(1, keepdims=True), corners.max(1, keepdims=True) - corners)
    return int((inside > 0.002).any((1, 2)).sum())


def _holds(x: float, y: float, w: float, h: float, *points: float) -> bool:
    """Whether four numbers are a box within the image, and all points that are not 0, 0 lie in it."""
    if min(w, h) <= 0 or min(x - w / 2, y - h / 2) < -0.02 or max(x + w / 2, y + h / 2) > 1.02:
        return False
    pairs = zip(points[::2], points[1::2], strict=False)
    return all(max(abs(px - x) - w / 2, abs(py - y) - h / 2) < 0.01 or px == py == 0 for px, py in pairs)


def _annotation(line: str, *, width: int, height: int, keypoints: int) -> dict[str, Any]:
    """Convert one line to pixels; a Fault where it is not in the format."""
    words = line.split()
    if wrong := [word for word in words if not _NUMBER.fullmatch(word)]:
        raise Fault(f"{line.strip()[:60]!r} has words that are no numbers, {wrong[0][:20]!r}")
    category, *values = map(float, words)
    if category != int(category) or category < 0:
        raise Fault(f"the class {words[0]} is no whole number from 0 on")
    if keypoints and len(values) != 4 + keypoints and len(values) != 4:
        raise Fault(
            f"after the class there are {len(values)} numbers; by kpt_shape a box has 4 and its keypoints {keypoints}"
        )
    if max(values[:4], default=0) > 2:
        raise Fault(f"{line.strip()[:60]!r} has numbers above 1; they are shares of the image, not pixels")
    if keypoints or len(values) == 4:
        x, y, w, h = values[:4]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": int(category), "bbox": box}
    if len(values) < 6 or len(values) % 2:
        raise Fault(
            f"after the class there are {len(values)} numbers; a box has 4, a polygon x and y of three points or more"
            + "; take the last away, where it is a score or a track's number; of an angle write four corners"
            * (len(values) == 5)
        )
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return {"category_id": int(category), "bbox": box, "segmentation": [polygon]}
