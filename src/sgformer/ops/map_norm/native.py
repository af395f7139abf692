"""`map_norm` by a kernel in C++: two passes over a map, GELU included; an operator for `torch.compile`."""

import torch
from torch import Tensor

from .. import native


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> str | None:
    """None, or a sentence."""
    if not x.is_contiguous():
        return "it takes contiguous maps"
    return native.objection((x, weight, bias), channels=x.shape[-1], opaque=True)


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    """Compute `reference.normalize`."""
    return (_operator if torch.compiler.is_compiling() else _normalize)(x, weight, bias, eps, gelu)


def _normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    return native.map_norm(x, weight, bias, eps, gelu=gelu)


_operator = torch.library.custom_op("sgformer::map_norm", _normalize, mutates_args=())
_operator.register_fake(lambda x, *_: torch.empty_like(x))
