"""`linear` by a kernel in C++, for as few tokens as one image has: libraries are made for more."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import native

MIN_TOKENS = 16


def why_not(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    if bias is None or x.dtype is not torch.float32:
        return "it computes in float32, with a bias"
    if len(weight) % 16 or not weight.is_contiguous():
        return "it makes 16 channels at a time, by contiguous weights"
    return native.objection((x, weight, bias), channels=x.shape[-1])


def why_slow(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    return "there are few tokens" if x.shape[:-1].numel() < MIN_TOKENS else None


def project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `reference.project`.

    Shape:
        - x: `(..., c)`; weight: `(c', c)`; bias: `(c',)`
        - returns: `(..., c')`
    """
    return native.linear(x.contiguous(), weight, bias)
