"""The list of packaged recipes, which needs no model."""

import difflib
import fnmatch
import re
import shutil
import sys
import textwrap
from pathlib import Path

from .signature import package


def show(pattern: str | None = None) -> None:
    """Print the packaged recipes whose names fit a pattern, with what they say of themselves; ValueError if none."""
    folder = package() / "recipes"
    about = {f"{path.parent.name}/{path.stem}": _about(path) for path in sorted(folder.glob("*/*.yaml"))}
    if not (names := fnmatch.filter(about, pattern or "*")):
        raise ValueError(f"no recipe fits {pattern!r}; see them all: sgformer list recipes")
    width = max(map(len, names))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for name in names:
        print(_line(f"{name:{width}}  ", about[name], columns))


def hint(unknown: list[str]) -> str:
    """What to say of unknown arguments: keys of packaged recipes whose last part holds the first one's name."""
    name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
    keys = set()
    for path in (package() / "recipes").glob("*/*.yaml"):
        section = ""
        for indent, key in re.findall(r"^( *)(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE):
            section = section if indent else key
            keys |= {f"{section}.{key}"} if len(indent) == 2 and name in key and len(name) > 1 else set()
    close = sorted(keys, key=lambda key: difflib.SequenceMatcher(None, name, key.split(".")[1]).ratio(), reverse=True)
    said = ", here perhaps " + " or ".join(f"--{key}" for key in close[:2]) if close else ""
    return f"; keys of a recipe come with their section, such as --optim.lr 1e-3{said}"


def _line(name: str, text: str, columns: int) -> str:
    """A name and what it is, wrapped beside the name where the terminal has so many columns."""
    if columns < len(name) + 20:  # no terminal, or too narrow a one
        return name + text
    return textwrap.fill(text, columns, initial_indent=name, subsequent_indent=" " * len(name), break_on_hyphens=False)


def _about(recipe: Path) -> str:
    """What a recipe says of itself in its first line."""
    with recipe.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
