"""The definition of `depthwise_conv` in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """The convolution, the input added where asked for, GELU where asked for; see `depthwise_conv`.

    Shape:
        - x, returns: `(B, H, W, c)`; weight: `(c, 1, 3, 3)`; bias: `(c,)`
    """
    weight, folded = fold_residual(x, weight, residual)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 1)
    y = x + y if residual and not folded else y
    return F.gelu(y) if gelu else y


def fold_residual(x: Tensor, weight: Tensor, residual: bool) -> tuple[Tensor, bool]:
    """The kernel, and whether adding the input is folded into it."""
    # Adding 1 to the kernel's centre saves a pass over the map. In bfloat16 it would cost the centre its digits.
    if residual and x.dtype in (torch.float32, torch.float64):
        return weight + F.pad(weight.new_ones(1, 1, 1, 1), (1, 1, 1, 1)), True
    return weight, False
