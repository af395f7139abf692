"""Images named on the command line: files, folders and patterns."""

import glob
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..engine.files import numbered
from ..tasks.folders import SUFFIXES, describe_left_out, look_through, note_masks, some


def find(images: list[str], suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The files that names, folders and patterns stand for, each once, in order; ``-`` reads standard input.

    Of a folder, files with these suffixes are images; a folder or a pattern without any is a ValueError. What of images
    is not read as it stands is told, where they are read as RGB.
    """
    paths: dict[Path, None] = {}
    names = [line.rstrip("\n") for name in images for line in (sys.stdin if name == "-" else [name])]
    for name in filter(None, names):
        path, there = Path(name), ""
        if path.is_dir():
            found, left_out = look_through(path, suffixes)
            if left_out:
                there = describe_left_out(left_out)
                print(f"sgformer: left out of {printable(name)}: {there}", file=sys.stderr)
        elif path.exists() or not glob.has_magic(name):
            found = [path]  # one that does not exist is reported with the others that cannot be read
        else:
            found = _matches(path)
        if not found:
            raise ValueError(f"no images in {name}{there and f', but {there}'}; expected {some(suffixes)}")
        paths |= dict.fromkeys(found)
    if not paths:
        raise ValueError("no images: standard input names none")
    if suffixes is SUFFIXES:
        from ..tasks.images import CLOSED, find_odd  # which needs torch

        for what, files in find_odd(paths).items():
            if what != CLOSED:  # each is named where it is read
                said, *_ = what.split("; ")  # without what to do in training
                print(f"sgformer: {len(files)} images are {said}, such as {printable(files[0])}", file=sys.stderr)
    for note in note_masks(paths):
        print(f"sgformer: {printable(note)}", file=sys.stderr)
    return list(paths)


def _matches(pattern: Path) -> list[Path]:
    """The files that fit a pattern, sorted, without hidden ones; `**` follows no links, which may lead in circles."""
    start = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    folder = Path(*pattern.parts[:start])
    return sorted(
        path
        for path in folder.glob(str(Path(*pattern.parts[start:])))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def readable(weights: str | Path) -> Collection[str]:
    """The suffixes of what the model in a weights file reads of a folder."""
    from ..engine.weights import read_metadata
    from ..tasks.bands import Bands

    return Bands.suffixes if "values" in read_metadata(weights).get("preprocessing", {}) else SUFFIXES


def printable(name: Any) -> str:
    """A name as text that can be printed and stored, whatever bytes are in it."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def free_names(folder: Path, paths: list[Path]) -> dict[Path, Path]:
    """A PNG file in the folder for each image, called like it; with a number where that name is taken."""
    names: dict[Path, Path] = {}
    taken: set[str] = set()  # some file systems do not tell capitals from small letters
    names_of: dict[str, Iterator[str]] = {}  # by stem, those that were not tried yet
    for path in paths:
        stem = printable(path.stem)
        files = (folder / f"{name}.png" for name in names_of.setdefault(stem, numbered(stem)))
        names[path] = next(file for file in files if file.name.casefold() not in taken and not file.exists())
        taken.add(names[path].name.casefold())
    return names


def parse_size(size: str | int | tuple[int, int], *, least: int = 1) -> tuple[int, int]:
    """(height, width) of a number, of ``HEIGHTxWIDTH``, or of both.

    Example:
        >>> parse_size("224"), parse_size("800x1333")
        ((224, 224), (800, 1333))
    """
    sides = str(size).lower().split("x") if isinstance(size, str | int) else size
    if len(sides) > 2 or not all(str(side).isdecimal() and int(side) for side in sides):
        raise ValueError(f"--size {size!r} is neither a number nor HEIGHTxWIDTH, such as 800x1333")
    height, width = int(sides[0]), int(sides[-1])
    if min(height, width) < least:
        raise ValueError(f"--size {height}x{width} is too small; SG-Former needs at least {least}x{least}")
    return height, width
