"""The definition of `depthwise_conv` in plain PyTorch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..conv2d import conv2d


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """The convolution, the input added where asked for, GELU where asked for; see `depthwise_conv`."""
    weight, folded = fold_residual(x, weight, residual)
    y = conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=1, padding=1, groups=len(weight)).permute(0, 2, 3, 1)
    y = x + y if residual and not folded else y
    return F.gelu(y) if gelu else y


def fold_residual(x: Tensor, weight: Tensor, residual: bool) -> tuple[Tensor, bool]:
    """The kernel, and whether adding the input is folded into it."""
    # Adding 1 to the kernel's centre saves a pass over the map. In bfloat16 it would cost the centre its digits.
    if residual and x.dtype in (torch.float32, torch.float64):
        return weight + F.pad(torch.ones_like(weight[:1, :, :1, :1]), (1, 1, 1, 1)), True
    return weight, False


def gelu_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> tuple[Tensor, Tensor]:
    """The gradient of what GELU takes, from that of what it gives; and what it gives, anew."""
    y = convolve(x, weight.to(x.dtype), bias.to(x.dtype), residual, False)
    return torch.ops.aten.gelu_backward(grad.to(y.dtype), y), F.gelu(y)


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, residual: bool, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of map, kernel and bias, from that of the convolution's output; those not wanted are not computed."""
    kernel, folded = fold_residual(x, weight.to(x.dtype), residual)
    c = x.shape[-1]
    maps = grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)
    of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
        *maps, kernel, [c], [1, 1], [1, 1], [1, 1], False, [0, 0], c, list(wanted)
    )
    if wanted[0]:
        of_x = of_x.permute(0, 2, 3, 1)
        of_x = of_x + grad if residual and not folded else of_x
    return (of_x, of_weight.to(weight.dtype) if wanted[1] else None, of_bias.to(weight.dtype) if wanted[2] else None)
