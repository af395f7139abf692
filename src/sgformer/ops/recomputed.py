"""Linear maps of what is cheap to prepare: it is prepared once more for the gradient, and not kept until then.

A norm before a projection, or a norm and GELU before a convolution, make a map that is as large as what they are made
of. Autograd would keep both.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .first_order import first_order
from .linear import linear, weight_gradient

# From what is kept, and parameters, to what is not.
Prepare = Callable[..., Tensor]


def linear_after(
    prepare: Prepare, x: Tensor, parameters: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`linear(prepare(x, *parameters), weight, bias)`, which keeps `x`. Has no second derivative.

    `prepare` is as cheap as a norm, and without randomness; it is called once more in the backward pass.

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
    prepare: Prepare, x: Tensor, parameters: Sequence[Tensor], weight: Tensor, *, stride: int, padding: int, groups: int
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
    """Record of how something was prepared, to do it again in the backward pass, under autocast if it was so."""

    def __init__(self, prepare: Prepare, device: str) -> None:
        self.prepare, self.device = prepare, device
        # There are devices, such as `meta`, without autocast.
        self.autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        self.dtype = torch.get_autocast_dtype(device) if self.autocast else None

    def again(
        self, inputs: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[Tensor, Callable[[Tensor], list[Tensor | None]]]:
        """Prepares once more; gives what is made, and a function from its gradient to those of the inputs wanted."""
        inputs = [x.detach().requires_grad_(wants) for x, wants in zip(inputs, wanted, strict=True)]
        leaves = [x for x in inputs if x.requires_grad]
        with torch.set_grad_enabled(bool(leaves)), self._precision():
            y = self.prepare(*inputs)

        def back(grad: Tensor) -> list[Tensor | None]:
            found = iter(torch.autograd.grad(y, leaves, grad.to(y.dtype)) if leaves else ())
            return [next(found) if wants else None for wants in wanted]

        return y.detach(), back

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, self.dtype) if self.autocast else nullcontext()


def bias_gradient(grad: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of a gradient over all but the last dimension, added up in float32 or better."""
    return grad.flatten(0, -2).sum(0, dtype=torch.promote_types(grad.dtype, torch.float32)).to(dtype)


class _LinearAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, x: Tensor, weight: Tensor, bias: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.prepared = Prepared(prepare, x.device.type)
        ctx.dtype_of_bias = bias.dtype if bias is not None else None
        return linear(prepare(x, *parameters), weight, bias)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        _, of_x, of_weight, of_bias, *of_parameters = ctx.needs_input_grad
        x, weight, *parameters = ctx.saved_tensors
        wanted = of_x, *of_parameters
        found: list[Tensor | None] = [None] * len(wanted)
        grad_weight = None
        if of_weight or any(wanted):
            y, back = ctx.prepared.again((x, *parameters), wanted)
            grad_weight = weight_gradient(grad, y.to(grad.dtype)).to(weight.dtype) if of_weight else None
            if any(wanted):
                found = back(linear(grad, weight.to(grad.dtype).t()))
        grad_bias = bias_gradient(grad, ctx.dtype_of_bias) if of_bias else None
        return None, found[0], grad_weight, grad_bias, *found[1:]


class _ConvAfter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, prepare: Prepare, numbers: tuple[int, int, int], x: Tensor, weight: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.prepared, ctx.numbers = Prepared(prepare, x.device.type), numbers
        stride, padding, groups = numbers
        return F.conv2d(prepare(x, *parameters), weight, None, stride, padding, 1, groups)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        _, _, of_x, of_weight, *of_parameters = ctx.needs_input_grad
        x, weight, *parameters = ctx.saved_tensors
        stride, padding, groups = ctx.numbers
        wanted = of_x, *of_parameters
        y, back = ctx.prepared.again((x, *parameters), wanted)
        numbers = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [any(wanted), of_weight, False]
        grad_y, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, y.to(grad.dtype), weight.to(grad.dtype), None, *numbers
        )
        found = back(grad_y) if any(wanted) else [None] * len(wanted)
        return None, None, found[0], grad_weight.to(weight.dtype) if of_weight else None, *found[1:]
