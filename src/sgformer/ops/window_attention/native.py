"""`window_attention` by a kernel in C++, window by window: nothing is cut out, padded or masked."""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..first_order import first_order


def why_not(qkv: Tensor, num_heads: int, size: int) -> str | None:
    """None, or a sentence."""
    if (d := qkv.shape[-1] // (3 * num_heads)) not in native.HEAD_SIZES:
        return f"heads have {d} channels; it takes {native.HEAD_SIZES}"
    return native.objection((qkv,), gradient=True)


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`."""
    return _Attend.apply(qkv, num_heads, size)  # pyright: ignore


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(qkv)
        ctx.numbers = num_heads, size
        out = qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))
        significance = native.window_attention(qkv, num_heads, size, out)
        ctx.mark_non_differentiable(significance)
        return out, significance

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, _of_significance: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return native.window_gradient(native.dense(grad), *ctx.saved_tensors, *ctx.numbers), None, None
