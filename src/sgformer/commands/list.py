"""List recipes, or models.

Examples:
  sgformer list recipes
  sgformer list recipes 'detection/*'
  sgformer list models                # ours
  sgformer list models 'convnext*'    # timm's: --model.name trains each of them
"""

from typing import Literal


def list_(what: Literal["recipes", "models"], pattern: str | None = None) -> None:
    """Print the models whose names fit a pattern, and how large they are; recipes are printed by `sgformer_cli`.

    Args:
        what: What to list.
        pattern: Those whose names fit it, with ``*`` and ``?``; by default all recipes, and the models of this package.

    Raises:
        ValueError: No model fits the pattern.
    """
    import timm

    from ..benchmark import measure
    from . import console

    names = timm.list_models(pattern or "sgformer*")
    if not names:
        raise ValueError(f"no model fits {pattern!r}; try sgformer list models '*'")
    rows = []
    for name in names:
        case = measure.Case(name, 224, 224)
        try:
            parameters, gmacs = measure.count(case)
            rows.append((name, f"{parameters:.1f}M", f"{gmacs:.2f}"))
        except Exception:  # one of timm's that does not compute without values
            model = measure.create(case, device="meta")
            rows.append((name, f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M", ""))
    console.table(("model", "parameters", "GMACs at 224"), rows)
