"""`linear` by a kernel in C++, for as few tokens as one image has: libraries are made for more."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native

MIN_TOKENS = 16


def why_not(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    if x.dtype is not torch.float32:
        return "it computes in float32"
    if len(weight) % 16 or not weight.is_contiguous():
        return "it makes 16 channels at a time, by contiguous weights"
    return native.objection((x, weight, weight if bias is None else bias), channels=x.shape[-1])


def why_slow(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    return "there are few tokens" if x.shape[:-1].numel() < MIN_TOKENS else None


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `reference.project`.

    Shape:
        - x: `(..., c)`; weight: `(c', c)`; bias: `(c',)`
        - returns: `(..., c')`
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return native.linear(x.contiguous(), weight, bias)
