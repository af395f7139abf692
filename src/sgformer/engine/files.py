"""Files that commands and runs write: whole or not at all, never over an input, tables as CSV."""

import contextlib
import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new; the folder is made if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        if error.errno:  # a failed write does not say to which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another once it is whole; an error leaves the old one, and no other file."""
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def check_writable(*paths: str | Path | None, inputs: Iterable[str | Path] = ()) -> None:
    """Make sure that files can be written before what goes into them is worked out.

    OSError where one cannot be written, with the reason; ValueError where one would take the place of another, of an
    input, or of annotations made by hand.
    """
    outputs = [Path(path) for path in paths if path]
    for number, path in enumerate(outputs):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:  # which may name another file
            raise OSError(error.errno, error.strerror, str(path)) from error
        if path.absolute() in [other.absolute() for other in outputs[:number]]:
            raise ValueError(f"{path} is named twice, and can hold one thing only; name another file")
        alike = [Path(file) for file in inputs if os.path.basename(file) == path.name]
        is_input = path.is_file() and any(file.is_file() and file.samefile(path) for file in alike)
        if is_input or _holds_annotations(path):
            what = "is read here" if is_input else "holds annotations"
            raise ValueError(f"that would overwrite {path}, which {what}; name another file")


def _holds_annotations(path: Path) -> bool:
    """Whether a file is in COCO's format, and not of detections, which have scores."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
        return any("score" not in row for row in content["annotations"]) and "images" in content
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A table of these columns; by default those of all rows, in the order in which they first appear."""
    if not columns:
        rows = list(rows)
        columns = list(dict.fromkeys(chain(*rows)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def numbered(name: str) -> Iterator[str]:
    """A name, and with numbers from 2 on for where it is taken.

    Example:
        >>> names = numbered("smoke")
        >>> next(names), next(names)
        ('smoke', 'smoke-2')
    """
    return chain([name], (f"{name}-{number}" for number in count(2)))
