"""YOLO's text files: a line for each object, in shares of the picture's width and height. Read as COCO's content."""

from pathlib import Path
from typing import Any

import yaml

from ..images import find_pictures
from ..loading import DataError
from ..text import read_text
from .coco import Content, picture_size


def read(root: Path, split: str, *, images: str | None, names: str) -> Content:
    """Read a split as Ultralytics lays it out.

    The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``: the name of the folder ``images`` is exchanged.
    Where no folder has this name, they lie beside the pictures. A picture without a file has no objects. A line is
    ``class x y width height``, from the box's centre, or ``class x y x y x y ...``, a polygon.

    Args:
        root: The folder of the data.
        split: Which split; named in the YAML file, perhaps.
        images: The folder of its pictures, from the root; None: what the YAML file says, else ``images/<split>``.
        names: A YAML file with ``names``, or a text file with a class a line, from the root.

    Raises:
        DataError: There is no such file or folder, or no names in the file.
    """
    classes, folders = _names(root / names)
    folder = Path(images or _folder(root, folders.get(split)) or f"images/{split}")
    if not (root / folder).is_dir():
        raise DataError(
            f"there is no folder {root / folder}; name that of the pictures: --data.{split}.images"
        )
    labels = _labels(folder)
    if not (root / labels).is_dir():
        raise DataError(f"there is no folder {root / labels} with the labels of {root / folder}")
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
    }
    faults: list[str] = []
    named: dict[Path, Path] = {}
    unused = {path.relative_to(root / labels) for path in (root / labels).rglob("*.txt")}
    for image_id, path in enumerate(find_pictures(root / folder), 1):
        name = path.relative_to(root / folder)
        height, width = picture_size(path) or (
            0,
            0,
        )  # what is wrong with a picture is said by who looks at all
        content["images"].append({"id": image_id, "file_name": str(name), "height": height, "width": width})
        file = name.with_suffix(".txt")
        if (other := named.setdefault(file, name)) != name:
            faults.append(f"{folder / name} has the name of {other.name}, whose labels these are")
            content["images"].pop()
            continue
        unused.discard(file)
        if not height or not (root / labels / file).is_file():
            continue
        text = read_text(root / labels / file)
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            where = f"{labels / file}, line {number}"
            try:
                annotation = _annotation(line, width=width, height=height)
            except ValueError as error:
                faults.append(f"{where}: {error}")
                continue
            content["annotations"].append({"id": where, "image_id": image_id, **annotation})
    faults += [
        f"{labels / file}: there is no such picture in {folder}"
        for file in sorted(unused)
        if file.name != "classes.txt"  # which annotation tools leave there
    ]
    return Content(root / folder, content, tuple(faults))


def _names(path: Path) -> tuple[dict[int, str], dict[str, Any]]:
    """The classes by number, and all else that a YAML file says."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path} with the names of the classes; name it: --data.train.annotations"
        )
    text = read_text(path)
    if path.suffix == ".txt":
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), {}
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML file ({' '.join(str(error).split())})") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(number, int) for number in names):
        raise DataError(f"{path} has no list of 'names'; write one, such as names: [cat, dog]")
    return {number: str(name) for number, name in names.items()}, content


def _folder(root: Path, entry: Any) -> str | None:
    """The folder that a YAML file names for a split, from the root; some exporters write it a level too high."""
    for name in (str(entry), str(entry).removeprefix("../")):
        if entry and (root / name).is_dir():
            return name
    return None


def _labels(folder: Path) -> Path:
    parts = list(folder.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _annotation(line: str, *, width: int, height: int) -> dict[str, Any]:
    """One line in pixels.

    Raises:
        ValueError: It is not in the format.
    """
    first, *rest = line.split()
    try:
        values = [float(word) for word in rest]
        category = int(float(first))
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} has words that are no numbers") from None
    if len(values) == 4:
        x, y, w, h = values
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
        return {"category_id": category, "bbox": box}
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"after the class there are {len(values)} numbers; a box has 4, a polygon x and y of three points or more"
        )
    xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    # Shoelaces.
    area = abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    return {"category_id": category, "bbox": box, "area": area, "segmentation": [polygon]}
