"""The MLP of a block, and what it keeps for its gradient."""

from __future__ import annotations

import functools
from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops import convolved_projection, linear, linear_after
from . import strips
from .attention import DepthwiseConv

# Up to so many channels the hidden map of an MLP is computed once more for its gradient.
MAX_CHANNELS_ANEW = 256


class ConvMlp(nn.Module):
    """The MLP of a block, with a depthwise convolution inside: `fc2(gelu(y + conv(y)))` of `y = fc1(x)`.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(self, channels: int, hidden_channels: int, *, device=None, dtype=None) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(channels, hidden_channels, **dd)
        self.conv = DepthwiseConv(hidden_channels, residual=True, gelu=True, **dd)
        self.fc2 = nn.Linear(hidden_channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes channels, and neighbours a little."""
        x = strips.apply(self.fc1, x)
        if strips.has_own_gradient(self.conv, self.fc2):
            assert self.conv.bias is not None
            return convolved_projection(x, self.conv.weight, self.conv.bias, self.fc2.weight, self.fc2.bias)
        return strips.apply(self.fc2, self.conv(x))

    def of_normed(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """`self(norm(x))`; for a gradient, what the norm makes is computed once more rather than kept.

        So is the hidden map where there are few channels, since a product that is small makes it then.
        """
        if not strips.keeps_for_gradient(norm, self, self.fc1, self.conv, self.fc2):
            return self(norm(x))
        prepare = functools.partial(_norm, norm.normalized_shape, norm.eps)
        of_norm = norm.weight, norm.bias
        assert self.conv.bias is not None
        rest = self.conv.weight, self.conv.bias, self.fc2.weight, self.fc2.bias
        if x.shape[-1] > MAX_CHANNELS_ANEW:
            return convolved_projection(
                linear_after(prepare, x, of_norm, self.fc1.weight, self.fc1.bias), *rest
            )
        parameters = (*of_norm, self.fc1.weight, self.fc1.bias)
        return convolved_projection(
            x, *rest, prepare=functools.partial(_hidden, prepare), parameters=parameters
        )


def _norm(shape: tuple[int, ...], eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, shape, weight, bias, eps)


def _hidden(norm: Any, x: Tensor, *parameters: Tensor) -> Tensor:
    of_norm, of_projection = parameters[:2], parameters[2:]
    return linear(norm(x, *of_norm), *of_projection)
