"""Linear maps of what is cheap to prepare: it is prepared once more for the gradient, and not kept until then.

A norm before a projection, or a norm and GELU before a convolution, make a map that is as large as what they are made
of. Autograd would keep both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .linear import linear, weight_gradient

# From what is kept, and parameters, to what is not.
Prepare = Callable[..., Tensor]


def linear_after(
    prepare: Prepare, x: Tensor, parameters: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`linear(prepare(x, *parameters), weight, bias)`, which keeps `x`. Has no second derivative.

    Args:
        prepare: as cheap as a norm, without randomness; called once more in the backward pass.
        x: what it is given.
        parameters: what else.
        weight: of the projection.
        bias: of the same.

    Shape:
        - x: any; weight: `(c', c)`; bias: `(c',)`
        - returns: as `prepare` does, with `c'` in place of `c`

    Example:
        >>> x, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4)
        >>> linear_after(torch.nn.functional.silu, x, (), weight, None).sum().backward()
        >>> x.grad.shape
        torch.Size([2, 3, 4])
    """
    return _LinearAfter.apply(prepare, x, weight, bias, *parameters)  # pyright: ignore


def conv_after(
    prepare: Prepare,
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """`conv2d(prepare(x, *parameters), weight)`, which keeps `x`. Has no second derivative.

    Shape:
        - x: any; weight: `(c', c / groups, k, k)`
        - returns: `(B, c', H', W')` of what `prepare` makes `(B, c, H, W)`

    Example:
        >>> x, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3)
        >>> conv_after(torch.relu, x, (), weight, stride=2, padding=1, groups=1).shape
        torch.Size([1, 6, 4, 4])
    """
    return _ConvAfter.apply(prepare, (stride, padding, groups), x, weight, *parameters)  # pyright: ignore


class Prepared:
    """How something was prepared, to do it again in the backward pass, under autocast if it was so."""

    def __init__(self, prepare: Prepare, device: str) -> None:
        self.prepare, self.device = prepare, device
        # There are devices, such as `meta`, without autocast.
        self.autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if self.autocast else None

    def again(self, x: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """It, and the leaves that a gradient can be taken to."""
        leaves = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
        with torch.enable_grad(), self._precision():
            return self.prepare(*leaves), leaves

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, self.dtype) if self.autocast else nullcontext()


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, x: Tensor, weight: Tensor, bias: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.prepared, ctx.dtype_of_bias = (
            Prepared(prepare, x.device.type),
            bias.dtype if bias is not None else None,
        )
        return linear(prepare(x, *parameters), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight, *parameters = ctx.saved_tensors
        y, leaves = ctx.prepared.again(x, parameters)
        of_weight = weight_gradient(grad, y.detach().to(grad.dtype))
        of_y = linear(grad, weight.to(grad.dtype).t()).to(y.dtype)
        of_bias = None
        if ctx.dtype_of_bias is not None:
            flat = grad.flatten(0, -2)
            of_bias = flat.sum(0, dtype=torch.promote_types(flat.dtype, torch.float32)).to(ctx.dtype_of_bias)
        of_x, *of_parameters = torch.autograd.grad(y, leaves, of_y)
        return None, of_x, of_weight.to(weight.dtype), of_bias, *of_parameters


class _ConvAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prepare: Prepare,
        numbers: tuple[int, int, int],
        x: Tensor,
        weight: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.prepared, ctx.numbers = Prepared(prepare, x.device.type), numbers
        stride, padding, groups = numbers
        return F.conv2d(prepare(x, *parameters), weight, None, stride, padding, 1, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, weight, *parameters = ctx.saved_tensors
        stride, padding, groups = ctx.numbers
        y, leaves = ctx.prepared.again(x, parameters)
        numbers = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [True, True, False]
        of_y, of_weight, _ = torch.ops.aten.convolution_backward(
            grad, y.detach().to(grad.dtype), weight.to(grad.dtype), None, *numbers
        )
        of_x, *of_parameters = torch.autograd.grad(y, leaves, of_y.to(y.dtype))
        return None, None, of_x, of_weight.to(weight.dtype), *of_parameters
