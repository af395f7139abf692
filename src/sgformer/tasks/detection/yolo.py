"""YOLO's text files: a line for each object, in shares of the image's width and height. Read as COCO's rows."""

import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..folders import SUFFIXES, find_images, lies_in_junk
from ..loading import DataError
from ..text import read_lines, read_text
from .checks import find_file, image_size
from .coco import Content

# As Ultralytics reads them: float() of Python would also take 1_0, nan and infinity.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What data.yaml may say that is not about what is learned from.
_KNOWN = {"path", "train", "val", "valid", "validation", "names", "nc", "kpt_shape", "flip_idx", "kpt_names"}
_KNOWN |= {
    "skeleton",
    "roboflow",
    "download",
    "license",
    "author",
    "date",
    "version",
    "task",
    "stride",
    "channels",
}
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation")}


class Yaml(NamedTuple):
    """Contents of data.yaml.

    Attributes:
        path: The file.
        names: Of the classes, by number.
        content: All of a YAML file.
        keypoints: How many numbers of keypoints follow each box.
    """

    path: Path
    names: dict[int, str]
    content: dict[str, Any]
    keypoints: int = 0


def read(root: Path, split: str, *, images: str | None, names: str) -> Content:
    """Read a split as Ultralytics lays it out.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``: the name of the folder ``images`` is exchanged.
    Where no folder has this name, they lie beside the images. An image without a file has no objects. A line is
    ``class x y width height``, from the box's centre, or ``class x y x y x y ...``, a polygon. Where the YAML file has
    ``kpt_shape``, keypoints follow the box, which are not learned.

    Args:
        root: The folder of the data.
        split: Which split; named in the YAML file, perhaps.
        images: Its images, from the root: a folder, or a text file that lists them; None: what the YAML file says, else
            ``images/<split>``.
        names: A YAML file with ``names``, or a text file with a class a line, from the root.

    Raises:
        DataError: There is no such file or folder, or no names in the file.
    """
    about = _names(root / names)
    notes: Counter[str] = Counter()
    sources = _sources(root, split, images, about)
    folder = sources[0] if len(sources) == 1 and sources[0].is_dir() else root
    files: dict[Path, None] = {}
    for place in sources:
        found = find_images(place) if place.is_dir() else _listed(place, root, about)
        notes[f"images listed twice in {split}, read once"] += len(found) - len(set(found) - files.keys())
        files |= dict.fromkeys(found)
    labels = {place: _labels(place, root) for place in sources if place.is_dir()}
    for place, beside in labels.items():
        if not beside.is_dir():
            raise DataError(f"there is no folder {beside} with the labels of {place}")
    if unknown := sorted(set(about.content) - _KNOWN):
        notes[f"entries of {about.path.name} not used ({', '.join(unknown)})"] = len(unknown)
    if about.content.get("path") and not (_path(about) and (root / about.content["path"]).is_dir()):
        notes[f"path of {about.path.name} that is no folder here; data.root is taken"] = 1
    rows: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in about.names.items()],
    }
    faults: list[str] = []
    named: dict[Path, Path] = {}
    lines: list[list[str]] = []
    used: list[Path] = []
    for image_id, path in enumerate(files, 1):
        file = _labels(path, root).with_suffix(".txt")
        if (other := named.setdefault(file, path)) != path:
            faults.append(f"{_from(path, root)} has the name of {other.name}, whose labels these are")
            continue
        # What is wrong with an image is said by who checks all.
        height, width = image_size(path) or (1, 1)
        name = os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
        rows["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        if file.is_file():
            used.append(file)
            for number, line in enumerate(read_text(file).split("\n"), 1):
                where = f"{_from(file, root)}, line {number}"
                try:
                    if line.strip():
                        lines.append(line.split())
                        row = _annotation(line, width=width, height=height, keypoints=about.keypoints)
                        rows["annotations"].append({"id": where, "image_id": image_id, **row})
                except ValueError as error:
                    faults.append(f"{where}: {error}")
        elif (beside := path.with_suffix(".txt")).is_file():
            faults.append(
                f"{_from(beside, root)} lies beside its image; labels are read from {_from(file.parent, root)}"
            )
            used.append(beside)
    if not about.keypoints and (number := _num_keypoints(lines)):
        raise DataError(
            f"{about.path}: the labels look like boxes with {number} keypoints each; write kpt_shape: [{number}, 3] "
            "into data.yaml"
        )
    for beside in labels.values():
        for file in sorted(beside.rglob("*.txt")):
            if file not in named and not _is_list(file) and not lies_in_junk(file, beside):
                faults.append(f"{_from(file, root)}: there is no such image in {split}{_other_image(file)}")
                used.append(file)
    places = dict.fromkeys([*labels, *labels.values(), *(path.parent for path in [*files, *named])])
    return Content(about.path, folder, rows, tuple(faults), +notes, tuple(places), tuple(used))


def _from(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _is_list(file: Path) -> bool:
    return file.name in ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt")


def _names(path: Path) -> Yaml:
    if not path.is_file():
        there = [p.name for p in sorted(path.parent.glob("*")) if p.suffix in (".yaml", ".yml", ".names")]
        there += ["classes.txt"] * (path.parent / "classes.txt").is_file()
        hint = f" {there[0]}" if there else ""
        raise DataError(
            f"there is no file {path} with the names of the classes; name it: --data.train.annotations{hint}"
        )
    if path.suffix in (".txt", ".names"):
        # labelmap.txt of CVAT has colours behind the names, and a comment for a head.
        lines = [line for line in read_lines(path) if not line.startswith("#")]
        if lines and all(line.count(":") == 3 for line in lines):
            lines = [line.split(":")[0] for line in lines]
        return Yaml(path, dict(enumerate(lines)), {})
    try:
        content = yaml.load(read_text(path), _Loader)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML file ({' '.join(str(error).split())})") from error
    content = content if isinstance(content, dict) else {}
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not all(number.isdecimal() for number in names):
        raise DataError(f"{path} has no list of 'names'; write one, such as names: [cat, dog]")
    if wrong := [name for name in names.values() if not isinstance(name, str) or not name.strip()]:
        raise DataError(f"{path}: the name {wrong[0]!r} is no text; write one, such as names: [cat, dog]")
    if (number := content.get("nc")) is not None and number != str(len(names)):
        raise DataError(
            f"{path}: nc is {number}, but there are {len(names)} names; mend the one or the other"
        )
    shape, keypoints = content.get("kpt_shape"), 0
    if shape is not None:
        if not isinstance(shape, list) or len(shape) != 2 or not all(str(n).isdecimal() for n in shape):
            raise DataError(f"{path}: kpt_shape {shape!r} is no list of two whole numbers")
        keypoints = math.prod(map(int, shape))
    return Yaml(path, {int(number): name for number, name in names.items()}, content, keypoints)


class _Loader(yaml.BaseLoader):
    """Reads YAML with all values as they are written, so that a class may be called on, no or 1.0."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping; a key that is there twice is an error."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key, count in Counter(map(str, keys)).items() if count > 1]:
            raise yaml.YAMLError(f"the key {twice[0]} is there twice")
        return super().construct_mapping(node, deep)


def _sources(root: Path, split: str, images: str | None, about: Yaml) -> list[Path]:
    """The folders and lists that hold the images of a split."""
    if images:
        entries, key = [images], f"--data.{split}.images"
    else:
        key = next((key for key in _SPLITS[split] if about.content.get(key, "") != ""), "")
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


def _path(about: Yaml) -> bool:
    return isinstance(about.content.get("path"), str) and bool(about.content["path"])


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in SUFFIXES


def _listed(file: Path, root: Path, about: Yaml) -> list[Path]:
    """The images that a text file lists, from its own folder, the root, or the path in the YAML file.

    Raises:
        DataError: An image is not there.
    """
    bases = [file.parent, root, *([root / about.content["path"]] if _path(about) else [])]
    found = []
    for line in read_lines(file):
        names = (line, *([line.split("/", 1)[1]] if "/" in line else []))  # Darknet puts data/ first
        tries = [find_file(base, name) for name in names for base in bases]
        path = next((path for path in tries if path.is_file()), None)
        if path is None:
            raise DataError(f"{file}: there is no image {line!r} in {file.parent}, nor in {root}")
        found.append(Path(os.path.normpath(path)))
    return found


def _labels(path: Path, root: Path) -> Path:
    """Where the labels of a folder or an image are: the last folder called images is exchanged."""
    parts = list(_from(path, root).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return root / Path(*parts)


def _other_image(file: Path) -> str:
    """Files of the name of labels that are no images known here, such as .heic."""
    parts = ["images" if part == "labels" else part for part in file.parts]
    others = [p.name for p in Path(*parts).parent.glob(f"{file.stem}.*") if p.suffix != ".txt"]
    return f", but {others[0]}, which cannot be read" if others else ""


def _num_keypoints(lines: list[list[str]]) -> int:
    """Count the keypoints that lines seem to have behind their boxes: x, y, and whether it is seen, as 0, 1 or 2.

    Without the last number they cannot be told from polygons.
    """
    length = len(lines[0]) if lines else 0
    if length < 8 or (length - 5) % 3 or any(len(line) != length for line in lines):
        return 0
    flags = {word for line in lines for word in line[7::3]}
    return (length - 5) // 3 if all(re.fullmatch(r"[012](\.0*)?", word) for word in flags) else 0


def _annotation(line: str, *, width: int, height: int, keypoints: int) -> dict[str, Any]:
    """Convert one line to pixels.

    Raises:
        ValueError: It is not in the format.
    """
    words = line.split()
    if wrong := [word for word in words if not _NUMBER.fullmatch(word)]:
        raise ValueError(f"{line.strip()[:60]!r} has words that are no numbers, {wrong[0][:20]!r}")
    category, *values = map(float, words)
    if category != int(category) or category < 0:
        raise ValueError(f"the class {words[0]} is no whole number from 0 on")
    if keypoints and len(values) != 4 + keypoints and len(values) != 4:
        raise ValueError(
            f"after the class there are {len(values)} numbers; by kpt_shape a box has 4 and its keypoints {keypoints}"
        )
    if max(values[:4]) > 2:
        raise ValueError(
            f"{line.strip()[:60]!r} has numbers above 1; they are shares of the image, not pixels"
        )
    if keypoints or len(values) == 4:
        x, y, w, h = values[:4]
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": int(category), "bbox": box}
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"after the class there are {len(values)} numbers; a box has 4, a polygon x and y of three points or more"
        )
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return {"category_id": int(category), "bbox": box, "segmentation": [polygon]}
