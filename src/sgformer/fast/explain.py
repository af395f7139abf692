"""Report of the way that each segment of a model takes, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.nn as nn

from ..backbone.segment import Segment, Way
from .conditions import LAYERS


class Taken(NamedTuple):
    """The way that a segment took."""

    segment: str  # its name in the model
    way: str  # its name, or "plain"
    why_not: dict[str, str]  # what each way that was asked before said against itself


def explain_ways(model: nn.Module, *inputs: Any) -> list[Taken]:
    """Runs a model once, and tells which way each of its segments took, in the order of the calls.

    A segment that is computed as a part of another does not appear. Runs as it is called: within `torch.no_grad()`,
    in training mode, under autocast.

    Args:
        model: whatever holds segments of the backbone.
        *inputs: of the model.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("sgformer_test").eval()
        >>> _ = model.stem.norm1.register_forward_hook(lambda *_: None)
        >>> with torch.no_grad():
        ...     stem, *_ = explain_ways(model, torch.zeros(1, 3, 64, 64))
        >>> stem.way, stem.why_not["fused"]
        ('plain', 'norm1 has a hook, or a forward of its own')
    """
    names = {module: name for name, module in model.named_modules()}
    taken: list[Taken] = []
    with _recorded(names, taken):
        model(*inputs)
    return taken


@contextmanager
def _recorded(names: dict[nn.Module, str], taken: list[Taken]) -> Iterator[None]:
    """Puts tables in place that ask the same ways, and write down what they say."""
    tables = {kind: kind.ways for kind in LAYERS}

    def ask(segment: Segment, *inputs: Any) -> str | None:
        why_not: dict[str, str] = {}
        for name, way in tables[type(segment)].items():
            if (reason := way.why_not(segment, *inputs)) is None:
                break
            why_not[name] = reason
        else:
            name = "plain"
        taken.append(Taken(names.get(segment, ""), name, why_not))
        return None

    def run(segment: Segment, *inputs: Any) -> Any:
        way = tables[type(segment)].get(taken[-1].way)
        return segment.plain(*inputs) if way is None else way.run(segment, *inputs)

    try:
        for kind in tables:
            kind.ways = {"recorded": Way(run, ask)}
        yield
    finally:
        for kind, ways in tables.items():
            kind.ways = ways
