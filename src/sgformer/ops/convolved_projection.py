"""The second half of a block's MLP as one operation that keeps little for its gradient."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .depthwise_conv import depthwise_conv, gradients
from .first_order import first_order
from .linear import linear, weight_gradient
from .pieces import few_images
from .recomputed import Prepare, Prepared, bias_gradient


def convolved_projection(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    prepare: Prepare | None = None,
    parameters: Sequence[Tensor] = (),
) -> Tensor:
    """`linear(gelu(x + conv(x)))`, which keeps nothing but `x` for the backward pass, and computes the rest anew.

    Written out, it would keep three maps of the hidden width: before and after the convolution, and after GELU. Has no
    second derivative.

    `prepare` makes the hidden map of `x` and `parameters`, where that is to be computed anew, too.

    Shape:
        - x: `(B, H, W, hidden)`, or what `prepare` makes that of
        - conv_weight: `(hidden, 1, 3, 3)`; conv_bias: `(hidden,)`
        - weight: `(c, hidden)`; bias: `(c,)`
        - returns: `(B, H, W, c)`

    Example:
        >>> x, k, b = torch.randn(1, 4, 5, 8), torch.randn(8, 1, 3, 3), torch.randn(8)
        >>> convolved_projection(x, k, b, torch.randn(2, 8), torch.randn(2)).shape
        torch.Size([1, 4, 5, 2])
    """
    return _ConvolvedProjection.apply(  # pyright: ignore
        prepare or _as_it_is, x, conv_weight, conv_bias, weight, bias, *parameters
    )


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _ConvolvedProjection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prepare: Prepare,
        x: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, conv_weight, conv_bias, weight, *parameters)
        ctx.prepared = None if prepare is _as_it_is else Prepared(prepare, x.device.type)
        ctx.dtype_of_bias = bias.dtype
        ctx.at_once = few_images(x, x[..., 0].numel() * weight.shape[1])

        def project(x: Tensor) -> Tensor:
            hidden = prepare(x, *parameters)
            hidden = depthwise_conv(hidden, conv_weight, conv_bias, residual=True, gelu=True)
            return linear(hidden, weight, bias)

        return torch.cat([project(y) for y in x.split(ctx.at_once)]) if ctx.at_once else project(x)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, *tensors = ctx.saved_tensors
        if ctx.at_once is None:
            return None, *_gradients(ctx, grad, x, *tensors)
        pieces = zip(grad.split(ctx.at_once), x.split(ctx.at_once), strict=True)
        of_maps, *of_tensors = zip(*(_gradients(ctx, *piece, *tensors) for piece in pieces), strict=True)
        of_x = torch.cat(of_maps) if ctx.needs_input_grad[1] else None
        sums = (functools.reduce(torch.add, parts) if parts[0] is not None else None for parts in of_tensors)
        return None, of_x, *sums


def _gradients(
    ctx: Any, grad: Tensor, x: Tensor, conv_weight: Tensor, conv_bias: Tensor, weight: Tensor, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    """Compute gradients for some images: of `x` and of all parameters, in the order of the arguments of `forward`."""
    _, of_x, *of_conv, of_weight, of_bias = ctx.needs_input_grad[:6]
    grad_bias = bias_gradient(grad, ctx.dtype_of_bias) if of_bias else None
    inner = of_x, *ctx.needs_input_grad[6:]
    if not any((*inner, *of_conv, of_weight)):
        return *[None] * 4, grad_bias, *[None] * len(parameters)
    back = None
    if ctx.prepared is not None:
        x, back = ctx.prepared.again((x, *parameters), inner)
    of_hidden, wanted = linear(grad, weight.to(grad.dtype).t()), (any(inner), *of_conv)
    hidden, grad_x, *grads_conv = gradients(
        of_hidden, x, conv_weight, conv_bias, residual=True, gelu=True, wanted=wanted
    )
    assert hidden is not None
    grad_weight = weight_gradient(grad, hidden.to(grad.dtype)).to(weight.dtype) if of_weight else None
    found = [grad_x]
    if back is not None:
        found = back(grad_x) if grad_x is not None else [None] * len(inner)
    return found[0], *grads_conv, grad_weight, grad_bias, *found[1:]
