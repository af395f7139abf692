"""Arguments of ``sgformer list``, and the list of recipes, which needs no model."""

import argparse
import fnmatch
import importlib.util
import shutil
import sys
import textwrap
from pathlib import Path

EXAMPLES = """examples:
  sgformer list recipes
  sgformer list recipes 'detection/*'
  sgformer list models                # ours
  sgformer list models 'convnext*'    # timm's: --model.name trains each of them
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("what", choices=["recipes", "models"], help="what to list")
    parser.add_argument(
        "pattern", nargs="?", help="those whose names fit (default: all recipes; models called sgformer*)"
    )


def answer(what: str, pattern: str | None = None) -> bool:
    """Print the packaged recipes; False where models are asked for."""
    if what != "recipes":
        return False
    spec = importlib.util.find_spec("sgformer")  # finds the package, without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the package sgformer is not installed: pip install 'sgformer[train]'")
    folder = Path(spec.submodule_search_locations[0]) / "recipes"
    about = {f"{path.parent.name}/{path.stem}": _about(path) for path in sorted(folder.glob("*/*.yaml"))}
    if not (names := fnmatch.filter(about, pattern or "*")):
        raise ValueError(f"no recipe fits {pattern!r}; see them all: sgformer list recipes")
    width = max(map(len, names))
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for name in names:
        print(_line(f"{name:{width}}  ", about[name], columns))
    return True


def _line(name: str, text: str, columns: int) -> str:
    """A name and what it is, wrapped beside the name where the terminal has so many columns."""
    if columns < len(name) + 20:  # no terminal, or too narrow a one
        return name + text
    return textwrap.fill(
        text, columns, initial_indent=name, subsequent_indent=" " * len(name), break_on_hyphens=False
    )


def _about(recipe: Path) -> str:
    """Read a recipe's description from its first line."""
    with recipe.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
