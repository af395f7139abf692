"""A convolution that `torch.compile` does not look into.

Inductor forces the order of channels last onto every tensor of four dimensions that a convolution follows. It takes a
token map `(B, H, W, c)`, whose channels are last already, for one that has them second, and attention's weights
`(B, a, N, M)` for a map of `a` channels, and turns them over in memory before each norm and softmax. Where it sees no
convolution it leaves them as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import tiles
from .dispatch import is_exporting


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int, groups: int) -> Tensor:
    """`torch.nn.functional.conv2d` with strides and padding the same both ways.

    Shape:
        - x: `(B, c, H, W)`; weight: `(c', c / groups, k, k)`; bias: `(c',)`
        - returns: `(B, c', H', W')`

    Example:
        >>> conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), None, stride=2, padding=1, groups=1).shape
        torch.Size([1, 4, 4, 4])
    """
    if not torch.compiler.is_compiling() or is_exporting():
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if torch.is_autocast_enabled(x.device.type):  # which does not reach into an operator
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    y = _opaque(x, weight, stride, padding, groups)
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def _forward(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    y = F.conv2d(x, weight, None, stride, padding, 1, groups)
    return y.contiguous(memory_format=torch.channels_last)


def _fake(x, weight, stride, padding, groups):
    y = F.conv2d(x, weight, None, stride, padding, 1, groups)
    return torch.empty_like(y, memory_format=torch.channels_last)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, of_x: bool
) -> tuple[Tensor, Tensor]:
    numbers = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad, x, weight, None, *numbers, [of_x, True, False])
    grad_x = x.new_zeros(()) if grad_x is None else grad_x.contiguous(memory_format=torch.channels_last)
    return grad_x, grad_weight.contiguous()


def _fake_backward(grad, x, weight, stride, padding, groups, of_x):
    grad_x = torch.empty_like(x, memory_format=torch.channels_last) if of_x else x.new_zeros(())
    return grad_x, torch.empty_like(weight, memory_format=torch.contiguous_format)


def _keep(ctx, inputs, output):
    x, weight, *ctx.numbers = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(backward, ctx, grad):
    of_x = ctx.needs_input_grad[0]
    grad_x, grad_weight = backward(grad, *ctx.saved_tensors, *ctx.numbers, of_x)
    return grad_x if of_x else None, grad_weight, None, None, None


_opaque = tiles.operator("conv2d", _forward, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate)
