"""What ``sgformer list`` takes, and the list of recipes, which needs no model."""

import argparse
import fnmatch
import importlib.util
from pathlib import Path

EXAMPLES = """examples:
  sgformer list recipes
  sgformer list recipes 'detection/*'
  sgformer list models                  ours
  sgformer list models 'convnext*'      timm's: each can be trained with --model.name
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
    for name in names:
        print(f"{name:{width}}  {about[name]}")
    return True


def _about(recipe: Path) -> str:
    """What a recipe says of itself in its first line."""
    with recipe.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()
