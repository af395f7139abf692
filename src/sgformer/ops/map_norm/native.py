"""`map_norm` by a kernel in C++: two passes over a map, GELU included."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> str | None:
    """None, or a sentence."""
    if x.dtype is not torch.float32 or not x.is_contiguous():
        return "it takes contiguous maps in float32"
    return native.objection((x, weight, bias), channels=x.shape[-1])


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    """Compute `reference.normalize`.

    Shape:
        - x, returns: `(B, H, W, c)`; weight, bias: `(c,)`
    """
    return native.map_norm(x, weight, bias, eps, gelu=gelu)
