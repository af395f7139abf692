"""A segment: a part of the model with a plain definition, and a table of other ways to compute it.

The definition is `plain`, which is all that one has to read. `import sgformer` imports `sgformer.fast`, which fills the
table; every way in it computes the numbers of `plain`, and says for itself where it does not serve. Other methods of a
segment, such as `embed` or `summary_tokens`, are steps of `plain` that a way may replace (`fast.fused.Instead`). For
the choice among backends of an op see `ops/dispatch.py`. It has nothing to do with segmentation.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch.nn as nn
from torch.fx import Proxy, Tracer


class Way(NamedTuple):
    """A way to compute a segment, and the predicate that tells when it applies."""

    run: Callable[..., Any]  # takes a segment and its inputs, and returns what `segment.plain(*inputs)` does
    why_not: Callable[..., str | None]  # takes the same and answers None ("take me"), or says why not


class Segment(nn.Module):
    """A part of the model that is defined by `plain`, and may be computed in other ways.

    Attributes:
        plain: the definition.
        ways: of exactly this class, the most preferred first. A subclass begins without any, since its `plain` may be
            another; so does a class that `torch.nn.utils.parametrize` or FSDP derives.
    """

    plain: Callable[..., Any]
    ways: ClassVar[dict[str, Way]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.ways = {}

    def forward(self, *inputs: Any) -> Any:
        """Takes the first way that serves, or the plain one."""
        if isinstance(inputs[0], Proxy) and isinstance(tracer := inputs[0].tracer, Tracer):
            # For `torch.fx`, a segment is one node.
            return tracer.create_proxy("call_module", tracer.path_of_module(self), inputs, {})
        for way in self.ways.values():
            if way.why_not(self, *inputs) is None:
                return way.run(self, *inputs)
        return self.plain(*inputs)
