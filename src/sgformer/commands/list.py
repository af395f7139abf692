"""``sgformer list recipes`` and ``sgformer list models``."""

import argparse

EXAMPLES = """examples:
  sgformer list recipes
  sgformer list models                  ours
  sgformer list models 'convnext*'      timm's: each can be trained with --model.name
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("what", choices=["recipes", "models"], help="what to list")
    parser.add_argument(
        "pattern", nargs="?", default="sgformer*", help="models whose names fit (default: sgformer*)"
    )


def list_(what: str, pattern: str = "sgformer*") -> None:
    """Print the packaged recipes, or the models whose names fit a pattern.

    Args:
        what: ``recipes`` or ``models``.
        pattern: With ``*`` and ``?``, as timm understands it.

    Raises:
        ValueError: No model fits the pattern.
    """
    from . import console

    if what == "recipes":
        from ..engine import recipe

        console.table(
            ("recipe", "about"), [(name, _first_line(path)) for name, path in recipe.names().items()]
        )
        return

    import timm
    import torch

    names = timm.list_models(pattern)
    if not names:
        raise ValueError(f"no model fits {pattern!r}; try sgformer list models '*'")
    rows = []
    for name in names:
        with torch.device("meta"):  # no memory, and no time for initial values
            model = timm.create_model(name)
        rows.append((name, f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}M"))
    console.table(("model", "parameters"), rows)


def _first_line(path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
