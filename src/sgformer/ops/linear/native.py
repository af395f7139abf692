"""`linear` by a kernel in C++, for as few tokens as one image has: libraries are made for more."""

import torch
from torch import Tensor

from .. import native

MIN_TOKENS = 16


def why_not(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    if x.dtype is torch.bfloat16 and x.shape[-1] % native.INNER:
        return f"it multiplies {native.INNER} numbers at a time"
    if len(weight) % 16 or not weight.is_contiguous():
        return "it makes 16 channels at a time, by contiguous weights"
    tensors = (x, weight, weight if bias is None else bias)
    return native.objection(tensors, channels=x.shape[-1], products=True)


def why_slow(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence."""
    return "there are few tokens" if x.shape[:-1].numel() < MIN_TOKENS else None


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `reference.project`."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return native.linear(x.contiguous(), weight, bias)
