"""Mapping of ids and colours in masks to classes, from files that people and annotation tools write."""

import csv
import io
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..text import read_lines, read_names, read_yaml, split_labelmap, split_numbers
from .masks import IGNORE, Coding, Colour

_FORM = "expected `classes:` with `name: id` or `name: [red, green, blue]`, and `ignore:` with a list"


def read_mapping(path: str | Path) -> Coding:
    """Read the meaning of ids or colours from a YAML or JSON file, or of colours from a list of `split_labelmap`.

    The file has ``classes``, a mapping of names to an id, a list of ids, a colour ``[red, green, blue]``, or a list of
    colours; and, where something is to be ignored, ``ignore``, a list of ids or of colours. Three numbers are a colour,
    unless there is an id, or a list of more or fewer of them, elsewhere in the file. DataError where there is no such
    file, it is not like that, or an id or a colour stands for two things.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; --data.mapping names a YAML file with `classes:`")
    if path.suffix.lower() in (".txt", ".csv"):
        return _labelmap(path)
    content = read_yaml(path)
    classes = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(classes, dict) or not classes:
        raise DataError(f"{path} is no mapping: {_FORM}")
    if unknown := content.keys() - {"classes", "ignore"}:
        raise DataError(f"{path} has {', '.join(sorted(unknown))}, which means nothing here: {_FORM}")
    values = {f"class {name}": value for name, value in classes.items()}
    if content.get("ignore") is not None:
        values["ignore"] = content["ignore"]
    values = _opaque(values)
    lists = [value for value in values.values() if isinstance(value, list) and value]
    nested = any(isinstance(value, list) for group in lists for value in group)
    plain = any(not isinstance(value, list) for value in values.values()) or any(
        len(group) != 3 and not isinstance(group[0], list) for group in lists
    )
    if nested and plain:
        raise DataError(f"{path} mixes ids and colours; masks hold either numbers or colours, so name one kind")
    entries = {name: _entries(value, f"{name} in {path}", coloured=not plain) for name, value in values.items()}
    meaning: dict[Any, tuple[str, int]] = {}
    for index, (name, group) in enumerate(entries.items()):
        for value in group:
            other, _ = meaning.setdefault(value, (name, IGNORE if name == "ignore" else index))
            if other != name:
                raise DataError(f"{path} gives {value} to {other} and to {name}; it can mean one thing only")
    known = {value: index for value, (_, index) in meaning.items()}
    if plain:
        ids = {IGNORE: IGNORE, **known}
        return Coding(classes=tuple(classes), ids=ids, by_custom=IGNORE not in known)
    palette = tuple(group[0] for name, group in entries.items() if name != "ignore")
    return Coding(classes=tuple(classes), colours=known, palette=palette)


def _entries(value: Any, where: str, *, coloured: bool) -> list[Any]:
    """The ids, or the colours, of a class."""
    values = value if isinstance(value, list) and not (coloured and _is_flat(value)) else [value]
    for each in values:
        fits = _is_colour(each) if coloured else isinstance(each, int)
        if not fits:
            raise DataError(f"{where}: {each} is no {'colour' if coloured else 'id'}; {_FORM}")
    if not values and not where.startswith("ignore"):
        raise DataError(f"{where} has neither id nor colour; {_FORM}")
    return [tuple(each) for each in values] if coloured else values


def _opaque(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers in quotes as numbers; and colours without a fourth number, where it says of all that they are opaque."""

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(each) for each in value]
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    values = {name: number(value) for name, value in values.items()}
    lists = [value for value in values.values() if isinstance(value, list)]
    colours = [colour for group in lists for colour in ([group] if _is_flat(group) else group)]
    if len(lists) == len(values) > 1 and all(len(colour) == 4 and colour[3] == 255 for colour in colours):
        return {name: group[:3] if _is_flat(group) else [c[:3] for c in group] for name, group in values.items()}
    return values


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    )


def _is_flat(values: list[Any]) -> bool:
    return bool(values) and not isinstance(values[0], list)


def _labelmap(path: Path) -> Coding:
    """The colours of masks as CVAT and others list them, a line for each class, see `split_labelmap`."""
    classes: dict[str, Colour] = {}
    lines = read_lines(path)
    found = split_labelmap(lines)
    if not found:
        wrong = [line for line in lines if not split_labelmap([line]) and not line.startswith("# label:")]
        raise DataError(f"{path}: {wrong[0] if wrong else ''!r} is not `label:red,green,blue::`, as CVAT writes it")
    for name, colour in found:
        if not colour:
            raise DataError(f"{path} has no colour for {name}; write it, as red,green,blue")
        red, green, blue = map(int, colour.split(","))
        if name in classes or (red, green, blue) in classes.values():
            raise DataError(f"{path} has the name or the colour of {name} twice")
        classes[name] = red, green, blue
    colours = {colour: index for index, colour in enumerate(classes.values())}
    return Coding(classes=tuple(classes), colours=colours, palette=tuple(classes.values()))


def read_classes(path: Path) -> Coding:
    """Class names from a text file, whose ids are their places.

    A line is a name, or ``id name (remark)`` in the order of the ids. A line ``255 ignore`` says that this id is
    ignored, also among names without ids, and so does LabelMe's first line ``__ignore__``. Lists of colours and
    Roboflow's ``_classes.csv`` are read as what they are. DataError where there is no such file, or its ids are not 0,
    1, 2 and so on.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; it must have the name of each class on a line, in order")
    is_csv = path.suffix.lower() == ".csv"
    lines = read_lines(path) if is_csv else read_names(path)
    if lines and (lines[0].startswith("# label:color_rgb") or split_labelmap(lines)):
        return _labelmap(path)
    if is_csv:
        mark = ";" if lines and ";" in lines[0] else ","  # as spreadsheets save it where a comma is for decimals
        cells = [*csv.reader(io.StringIO("\n".join(lines)), delimiter=mark, skipinitialspace=True)]
        cells = [[cell.strip() for cell in row[:2]] for row in cells if row[0].strip().isdigit()]
        if empty := [row[0] for row in cells if not row[1:] or not row[1]]:
            raise DataError(f"{path} has no name for class {empty[0]}; write one")
        if not cells:
            raise DataError(f"{path} has no rows `0, name`, as Roboflow writes it; save it so, with commas")
        lines = [" ".join(row) for row in cells]
    if not (numbered := split_numbers(lines)):
        names = [line for line in lines if line.lower().split() != [str(IGNORE), "ignore"]]
        said = lines[:1] == ["__ignore__"]
        return Coding.plain(names[said:], by_custom=not said and len(names) == len(lines))
    rows = [(number, name if is_csv else name.split(" (")[0]) for number, name in numbered]
    classes = [(number, name) for number, name in rows if number != IGNORE]
    if [number for number, _ in classes] != list(range(len(classes))):
        raise DataError(f"the ids in {path} must be 0, 1, 2 and so on, in this order")
    return Coding.plain([name for _, name in classes], by_custom=len(classes) == len(rows))
