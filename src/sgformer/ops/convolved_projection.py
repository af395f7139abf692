"""The second half of a block's MLP as one operation that keeps little for its gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .depthwise_conv import depthwise_conv, gelu_gradient, gradients


def convolved_projection(
    x: Tensor, conv_weight: Tensor, conv_bias: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """`linear(gelu(x + conv(x)))`, which keeps nothing but `x` for the backward pass, and computes the rest anew.

    Written out, it would keep three maps of the hidden width: before and after the convolution, and after GELU. Has no
    second derivative.

    Args:
        x: hidden map.
        conv_weight: of the depthwise convolution.
        conv_bias: of the same.
        weight: of the projection.
        bias: of the same.

    Shape:
        - x: `(B, H, W, hidden)`
        - conv_weight: `(hidden, 1, 3, 3)`; conv_bias: `(hidden,)`
        - weight: `(c, hidden)`; bias: `(c,)`
        - returns: `(B, H, W, c)`

    Example:
        >>> x, k, b = torch.randn(1, 4, 5, 8), torch.randn(8, 1, 3, 3), torch.randn(8)
        >>> convolved_projection(x, k, b, torch.randn(2, 8), torch.randn(2)).shape
        torch.Size([1, 4, 5, 2])
    """
    return _ConvolvedProjection.apply(x, conv_weight, conv_bias, weight, bias)  # pyright: ignore


class _ConvolvedProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, conv_weight: Tensor, conv_bias: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, conv_weight, conv_bias, weight)
        return F.linear(depthwise_conv(x, conv_weight, conv_bias, residual=True, gelu=True), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        x, conv_weight, conv_bias, weight = ctx.saved_tensors
        of_hidden, hidden = gelu_gradient(
            grad @ weight.to(grad.dtype), x, conv_weight, conv_bias, residual=True
        )
        flat = grad.flatten(0, 2)  # (B * H * W, c)
        of_weight = flat.t() @ hidden.flatten(0, 2).to(grad.dtype)
        of_x, of_conv_weight, of_conv_bias = gradients(of_hidden, x, conv_weight, residual=True)
        of_bias = flat.sum(0, dtype=torch.promote_types(flat.dtype, torch.float32))
        return of_x, of_conv_weight, of_conv_bias, of_weight.to(weight.dtype), of_bias.to(weight.dtype)
