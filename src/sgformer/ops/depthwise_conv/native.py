"""`depthwise_conv` by kernels in C++, with the residual and GELU in the same pass over the map; so are the gradients.

For its gradients it keeps the map, and computes anew what the convolution makes of it. It has no second derivative.
"""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..first_order import first_order


def why_not(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence."""
    return native.objection((x, weight, bias), channels=x.shape[-1], gradient=True)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """Compute `reference.convolve`."""
    return _Convolve.apply(x, weight.contiguous(), bias, residual, gelu)  # pyright: ignore


def why_no_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence that says why `gradients` cannot serve."""
    if x.dtype is not torch.float32:
        return "it computes gradients in float32"
    return native.objection((x, weight, bias, grad), channels=x.shape[-1])


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Compute what `convolve` made, anew, where GELU followed; and the gradients of map, kernel and bias."""
    return native.depthwise_gradient(grad, x, weight.contiguous(), bias, residual=residual, gelu=gelu)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.options = residual, gelu
        return native.depthwise_conv(x, weight, bias, x if residual else None, gelu=gelu)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        _, *found = gradients(native.dense(grad), *ctx.saved_tensors, *ctx.options)
        return *(y if wants else None for y, wants in zip(found, ctx.needs_input_grad[:3], strict=True)), None, None
