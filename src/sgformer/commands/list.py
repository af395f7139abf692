"""``sgformer list models``; the list of recipes needs no model, and is `sgformer_cli`'s."""


def list_(what: str = "models", pattern: str | None = None) -> None:
    """Print the models whose names fit a pattern, and how large they are.

    Args:
        what: ``models``.
        pattern: With ``*`` and ``?``, as timm understands it; None: those of this package.

    Raises:
        ValueError: No model fits the pattern.
    """
    import timm
    import torch

    from . import console

    names = timm.list_models(pattern or "sgformer*")
    if not names:
        raise ValueError(f"no model fits {pattern!r}; try sgformer list models '*'")
    rows = []
    for name in names:
        with torch.device("meta"):  # no memory, and no time for initial values
            model = timm.create_model(name)
        rows.append((name, f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}M"))
    console.table(("model", "parameters"), rows)
