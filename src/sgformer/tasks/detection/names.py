"""Names of classes beside YOLO's labels, as tools and people write them."""

import math
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DataError
from ..text import read_plain_names, read_text, read_yaml

# Where tools write them.
LISTS = (
    "data.yaml",
    "dataset.yaml",
    "classes.txt",
    "names.txt",
    "labels.txt",
    "predefined_classes.txt",
    "obj.names",
    "_darknet.labels",
    "notes.json",
)


class Names(NamedTuple):
    """Names of classes, and what else their file says."""

    path: Path
    names: dict[int, str]  # of the classes
    content: dict[str, Any]  # all of a YAML file
    keypoints: int = 0  # how many numbers of them follow each box


def read(path: Path) -> Names:
    """Read names from a YAML file, or from a list that `read_plain_names` reads.

    DataError where there is no such file, or it has no names, or contradicts itself.
    """
    if not path.is_file():
        there = [p.name for p in sorted(path.parent.glob("*")) if p.suffix in (".yaml", ".yml", ".names")]
        there += ["classes.txt"] * (path.parent / "classes.txt").is_file()
        hint = f" {there[0]}" if there else ""
        raise DataError(
            f"there is no file {path} with the names of the classes; name it: --data.train.annotations{hint}, and "
            f"--data.val.annotations{hint}"
        )
    if path.suffix in (".txt", ".names", ".labels", ".json"):
        return Names(path, dict(enumerate(read_plain_names(path))), {})
    content = read_yaml(path, numbers=False)
    content = content if isinstance(content, dict) else {}
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not all(number.isdecimal() for number in names):
        raise DataError(f"{path} has no list of 'names'; write one, such as names: [cat, dog]")
    if wrong := [name for name in names.values() if not isinstance(name, str) or not name.strip()]:
        raise DataError(f"{path}: the name {wrong[0]!r} is no text; write one, such as names: [cat, dog]")
    if (number := content.get("nc")) is not None and number != str(len(names)):
        raise DataError(f"{path}: nc is {number}, but there are {len(names)} names; mend the one or the other")
    shape, keypoints = content.get("kpt_shape"), 0
    if shape is not None:
        if not isinstance(shape, list) or len(shape) != 2 or not all(str(n).isdecimal() for n in shape):
            raise DataError(f"{path}: kpt_shape {shape!r} is no list of two whole numbers")
        keypoints = math.prod(map(int, shape))
    return Names(path, {int(number): name for number, name in names.items()}, content, keypoints)


def compare(
    about: Names, root: Path, folders: Collection[Path], notes: Counter[str], *, labels: Collection[Path] = ()
) -> list[str]:
    """Note where a file beside the one with the names, in folders or above them, gives another name to a class.

    Files that are ``labels`` of an image, which may be called like a list, are none.
    """
    faults = []
    above = (parent for folder in folders for parent in folder.parents if parent.is_relative_to(root))
    folders = dict.fromkeys([root, *above, *folders])
    for file in (folder / name for folder in folders for name in LISTS):
        if file == about.path or file in labels or not file.is_file():
            continue
        try:
            names = read(file).names
        except DataError as error:  # a data.yaml may be about something else
            names = {}
            if file.suffix != ".yaml":
                faults.append(str(error))
        beyond = names.keys() - about.names.keys()
        unlike = [number for number, name in names.items() if about.names.get(number, name) != name]
        if {*names.values()}.isdisjoint(about.names.values()):
            notes[f"names in {within(file, root)} that are none of {about.path.name}, not used"] = len(names)
        elif unlike:
            faults.append(
                f"class {unlike[0]} is {names[unlike[0]]} in {within(file, root)}, and {about.names[unlike[0]]} in "
                f"{within(about.path, root)}; make them alike, or remove the wrong file"
            )
        elif beyond:
            notes[f"names in {within(file, root)} beyond those of {about.path.name}, not used"] = len(beyond)
    for file in (folder / "obj.data" for folder in folders if (folder / "obj.data").is_file()):
        said = re.search(r"^\s*classes\s*=\s*(\d+)", read_text(file), re.MULTILINE)
        if said and int(said[1]) != len(about.names):
            faults.append(
                f"{within(file, root)} counts {said[1]} classes, but there are {len(about.names)} names in "
                f"{within(about.path, root)}; mend the one or the other"
            )
    return faults


def within(path: Path, root: Path) -> Path:
    """A path from a folder, where it is in it."""
    return path.relative_to(root) if path.is_relative_to(root) else path
