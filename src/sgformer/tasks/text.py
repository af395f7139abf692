"""Text files that people and their tools write: class names, lists, tables, JSON, YAML."""

import codecs
from pathlib import Path

from .loading import DataError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, without the byte order mark that editors on Windows put first.

    Each line ends with a newline character, whatever ends it in the file.

    Args:
        path: An existing file.

    Raises:
        DataError: The file cannot be read, or is not UTF-8. The message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    # UTF-16 of plain letters is valid UTF-8 with zeros in it.
    if content.startswith(_UTF_16) or b"\x00" in content:
        raise DataError(f"{path} is UTF-16 or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not UTF-8 (line {line}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the blanks around them; see `read_text`."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]
