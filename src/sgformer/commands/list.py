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
