"""Tables of images and their labels: CSV, TSV, Parquet."""

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DataError, listed
from ..folders import find_file, lies_in
from ..text import read_text

# What spreadsheets and pandas write where there is no value.
_ERRORS = {"nan", "null", "n/a", "<na>", "#n/a", "#ref!", "#value!", "#name?"}
# What the column of images may be called, as by Hugging Face's image folders; the first that is there.
_PATHS = ("path", "file_name", "filename")
# How files of spreadsheets begin, and JSON.
_OTHERS = (b"PK\3\4", b"\xd0\xcf\x11\xe0", b"[", b"{")
Pairs = list[tuple[Path, str]]


def read_table(
    path: str | None, split: str, root: Path | None, *, max_missing: float = 0.0, labelled: bool = True
) -> tuple[Pairs, list[str]]:
    """The images of a table with the columns ``path`` and ``label``, with their labels, and notes.

    The table is CSV with commas, semicolons, tabs or bars, or Parquet (through pandas); ``path`` may be called
    ``file_name`` or ``filename``. Paths in it are relative to ``root``, or to the table's own folder; backslashes are
    taken for slashes where that finds an image. Up to ``max_missing`` of the images may be missing; they are left out,
    and counted in the notes. DataError where the table is not like that, contradicts itself, or names images that do
    not exist.
    """
    if path is None:
        raise DataError(f"which images? Name a CSV or Parquet file: --data.{split}_list FILE")
    table = Path(path).expanduser()
    if not table.is_file():
        raise DataError(f"there is no file {table}; check --data.{split}_list")
    with table.open("rb") as file:
        if file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(_OTHERS):
            raise DataError(f"{table} is JSON or a spreadsheet's file; save it as CSV, or as Parquet")
    names = ("path", "label") if labelled else ("path",)
    rows, others = _parquet(table, names) if table.suffix.lower() == ".parquet" else _csv(table, names)
    rows = [row for row in rows if any(row)]  # as spreadsheets leave them behind the last
    if not rows:
        raise DataError(f"{table} has no rows; it must have one for each image")
    base = root or table.parent
    for number, row in enumerate(rows, 1):
        if not all(row):
            raise DataError(f"row {number} of {table} has no {names[row.index('')]}; complete it")
        if labelled and row[1].lower() in _ERRORS:
            raise DataError(f"row {number} of {table} has the label {row[1]}, which stands for none; complete it")
        if labelled and row[1][0] + row[1][-1] in ("[]", "{}"):
            raise DataError(f"row {number} of {table} has the label {row[1]}; an image has one class, as plain text")
    if labelled and (label := _several(row[1] for row in rows)):
        number = 1 + next(place for place, row in enumerate(rows) if row[1] == label)
        raise DataError(
            f"row {number} of {table} has the label {label!r}, several in one; an image has one class: keep one in "
            "each row"
        )
    found = _Folders()
    pairs = [(found.resolve(base, image), "".join(label)) for image, *label in rows]
    check_labels(((os.path.normpath(image), label) for image, label in pairs), table)
    there = [pair for pair in pairs if pair[0] in found]
    missing = len(pairs) - len(there)
    if missing > max_missing * len(pairs):
        first = next(image for image, _ in pairs if image not in found)
        raise DataError(
            f"{table} names {missing} of {len(pairs)} images that do not exist, such as {first}; set --data.root to "
            f"the folder that its paths start from (now {base}), or correct the table"
        )
    notes = [f"{missing} images of {table} do not exist"] if missing else []
    if others := sorted(set(map(str, others)) - {"", "label", "id", "index", "Unnamed: 0"}):
        notes.append(f"columns of {table} not used: {listed(others)}")
    if root and (outside := [image for image, _ in there if not lies_in(image, root)]):
        notes.append(f"{len(outside)} images of {table} lie outside of data.root {root}, such as {outside[0]}")
    if twice := len(there) - len({os.path.normpath(image) for image, _ in there}):
        notes.append(f"{twice} rows of {table} repeat an image")
    return there, notes


def check_labels(pairs: Iterable[tuple[Any, str]], source: str | Path) -> dict[Any, str]:
    """The label of each image; a table may repeat itself, but not contradict itself."""
    labels: dict[Any, str] = {}
    for image, label in pairs:
        if labels.setdefault(image, label) != label:
            raise DataError(
                f"{source} calls {image} both {labels[image]} and {label}; an image has one class: remove a line"
            )
    return labels


def _several(labels: Iterable[str]) -> str:
    """Find a label that is several in one cell, as most with commas are; empty where there is none.

    All parts of such a label are others, too, or parts of others. Of names with commas, as ImageNet's, that holds
    for a few at most.
    """
    parts = {label: {part.strip() for part in re.split("[,;|]", label)} for label in set(labels)}
    counts = Counter(part for some in parts.values() for part in some)
    lists = {label: all(counts[part] > 1 for part in some) for label, some in parts.items() if len(some) > 1}
    return min(label for label, shared in lists.items() if shared) if 2 * sum(lists.values()) > len(lists) else ""


class _Folders:
    """Index of existing files; each folder is read once, since to ask for a million files one by one takes long."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        folder = str(path.parent)
        if folder not in self.names:
            try:
                with os.scandir(folder) as entries:
                    self.names[folder] = {entry.name for entry in entries if not entry.is_dir()}
            except OSError:
                self.names[folder] = set()
        return path.name in self.names[folder] or (bool(self.names[folder]) and path.is_file())

    def resolve(self, base: Path, name: str) -> Path:
        path = base / name
        return path if path in self else find_file(base, name)


def _csv(table: Path, names: tuple[str, ...]) -> tuple[list[tuple[str, ...]], list[Any]]:
    text = read_text(table)
    if text.startswith("sep="):  # for Excel
        text = text.partition("\n")[2]
    heads = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t|" if mark in heads), ",")
    try:
        reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
        columns = _columns(reader.fieldnames or (), names, table)
        rows = []
        for row in reader:
            if None in row:
                raise DataError(
                    f"line {reader.line_num} of {table} has more cells than columns; put names with {delimiter!r} in "
                    "quotes"
                )
            rows.append(tuple((row[name] or "").strip() for name in columns))
    except csv.Error as error:
        raise DataError(f"{table} is no CSV file ({error}); save it as one") from error
    return rows, [head for head in reader.fieldnames or () if head not in columns]


def _parquet(table: Path, names: tuple[str, ...]) -> tuple[list[tuple[str, ...]], list[Any]]:
    import pandas

    try:
        frame = pandas.read_parquet(table).convert_dtypes()  # whole numbers stay so where some are missing
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{table} is no Parquet file, or damaged ({reason}); write or copy it again") from error
    frame = frame.astype(object).where(frame.notna(), "")
    columns = _columns(list(frame.columns), names, table)
    rows = zip(*(frame[c] for c in columns), strict=True)
    return [tuple(str(cell).strip() for cell in row) for row in rows], [c for c in frame.columns if c not in columns]


def _columns(heads: Iterable[Any], names: tuple[str, ...], table: Path) -> list[Any]:
    """The columns of these names, whatever blanks are around them in the table."""
    heads = [*heads]
    found = {str(head).strip(): head for head in heads}
    names = (next((name for name in _PATHS if name in found), "path"), *names[1:])
    if len(found) < len(heads) and (twice := [head for head, n in Counter(map(str, heads)).items() if n > 1]):
        raise DataError(f"{table} has the column {twice[0]!r} twice; keep one of them")
    if not set(names) <= found.keys():
        wanted = " and ".join(f"`{name}`" for name in names)
        raise DataError(f"{table} has the columns {listed(found)}; it must have {wanted}")
    return [found[name] for name in names]
