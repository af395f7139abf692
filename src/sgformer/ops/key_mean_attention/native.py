"""`key_mean_attention` by the kernel of `attention`, which adds up what keys receive while weights are in the cache."""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..attention.native import why_not as why_not_attention
from ..by_heads import new_output
from ..first_order import first_order


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence."""
    return "it takes no mask" if mask is not None else why_not_attention(q, k, v)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`."""
    return _Attend.apply(q, k, v, scale)  # pyright: ignore


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        key_mean = q.new_empty((q.shape[0], k.shape[2]), dtype=torch.float32)
        ctx.mark_non_differentiable(key_mean)
        return native.attention(q, k, v, scale, new_output(q), key_mean), key_mean

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, _grad_of_key_mean: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        q, k, v = ctx.saved_tensors
        return *native.attention_gradient(native.dense(grad), q, k, v, ctx.scale), None
