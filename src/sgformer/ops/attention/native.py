"""`attention` by a kernel in C++: scores, softmax and the weighted sum of a few queries at a time, in the cache.

For its gradients it keeps what it was given, and computes the weights anew. It has no second derivative.
"""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..by_heads import new_output
from ..first_order import first_order


def why_not(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence."""
    if q.shape[-1] not in native.HEAD_SIZES:
        return f"heads have {q.shape[-1]} channels; it takes {native.HEAD_SIZES}"
    return native.objection((q, k, v), gradient=True)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `reference.attend`."""
    return _Attend.apply(q, k, v)  # pyright: ignore


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return native.attention(q, k, v, q.shape[-1] ** -0.5, new_output(q))

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        q, k, v = ctx.saved_tensors
        return native.attention_gradient(native.dense(grad), q, k, v, q.shape[-1] ** -0.5)
