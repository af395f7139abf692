"""Whole maps, with projections, depthwise convolutions and norms computed by the package's ops.

The segment's own `plain` runs, with some of its layers computed otherwise. On all devices, with and without gradients,
and for `torch.compile`.
"""

import functools
from types import FunctionType
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from ..backbone.mlp import ConvMlp
from ..backbone.regional import RegionalAttention
from ..backbone.segment import Segment
from ..backbone.stem import Downsample, Stem
from ..ops import conv2d, conv_after, depthwise_conv, linear, linear_after, map_norm, merge_tokens
from ..ops.linear import native
from .conditions import layers_objection, mode_objection


class Instead:
    """A segment in which some layers or methods are replaced, for one call of its `plain`."""

    def __init__(self, segment: Segment, **parts: Any) -> None:
        self.segment = segment
        self.parts = parts

    def __getattr__(self, name: str) -> Any:
        if name in self.parts:
            return self.parts[name]
        method = getattr(type(self.segment), name, None)
        if isinstance(method, FunctionType):  # which is to see the parts, too
            return functools.partial(method, self)
        return getattr(self.segment, name)


def why_not(segment: Segment, *inputs: Tensor) -> str | None:
    """None, or a sentence."""
    return mode_objection() or layers_objection(segment)


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """Compute the layer."""
    return linear(x, layer.weight, layer.bias)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute the depthwise convolution of a map `(B, c, H, W)` that has its channels last in memory."""
    assert conv.bias is not None
    return depthwise_conv(x.permute(0, 2, 3, 1), conv.weight, conv.bias).permute(0, 3, 1, 2)


def attention(attn: HybridScaleAttention | SelfGuidedAttention | GlobalAttention, *inputs: Tensor) -> Any:
    """Any of the three attentions."""
    parts: dict[str, Any] = {
        name: functools.partial(project, getattr(attn, name)) for name in ("in_proj", "kv", "proj")
    }
    parts["positional"] = functools.partial(convolve, attn.positional)
    if isinstance(attn, HybridScaleAttention):
        parts["coarse_tokens"] = functools.partial(coarse_tokens, attn)
    elif type(attn) is SelfGuidedAttention:
        parts["summary_tokens"] = functools.partial(summary_tokens, attn)
    elif isinstance(attn, RegionalAttention):
        parts["attend_with_bias"] = F.scaled_dot_product_attention
    return Instead(attn, **parts).plain(*inputs)


def coarse_tokens(attn: HybridScaleAttention, x: Tensor) -> Tensor:
    """A convolution without overlap as a matrix product; for a gradient, the squares are cut out once more."""
    conv, prepare = attn.coarse, functools.partial(squares, attn.stride)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (c, s * s * c)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        coarse = linear_after(prepare, x, (), weight, conv.bias)
    else:
        coarse = linear(prepare(x), weight, conv.bias)
    return F.gelu(attn.coarse_norm(coarse))


def squares(side: int, x: Tensor) -> Tensor:
    """A map cut into squares, filled up with zeros: `(B, H, W, c)` to `(B, h, w, side * side * c)`."""
    _, H, W, _ = x.shape
    if H % side or W % side:
        x = F.pad(x, (0, 0, 0, -W % side, 0, -H % side))
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3)


def summary_tokens(attn: SelfGuidedAttention, x: Tensor, ranking: Tensor) -> Tensor:
    """Merging `(B, N, c)` by ranking `(B, N)` as one op."""
    weights: list[Any] = [f.weight.squeeze(0) for f in attn.merge]  # pyright: ignore
    biases: list[Any] = [f.bias for f in attn.merge]
    return merge_tokens(x, ranking, weights, biases, token_budget=attn.token_budget)


def mlp(mlp: ConvMlp, x: Tensor) -> Tensor:
    """The MLP, with residual and GELU in the op of the convolution."""
    assert mlp.conv.bias is not None
    hidden = project(mlp.fc1, x)
    hidden = depthwise_conv(hidden, mlp.conv.weight, mlp.conv.bias, residual=True, gelu=True)
    return project(mlp.fc2, hidden)


def stem(stem: Stem, x: Tensor) -> Tensor:
    """The stem, channels last from the start: nothing after it has to be copied into another layout."""
    return Instead(stem, embed=functools.partial(chain, stem)).plain(x)


def chain(segment: Stem | Downsample, x: Tensor) -> Tensor:
    """Three convolutions, each with a norm; for a gradient, what norm and GELU make is computed once more.

    Maps are `(B, c, H, W)`, what is returned in channels-last order.
    """
    x = convolved(segment.conv1, x.contiguous(memory_format=torch.channels_last))
    x = _conv_of_normed(x, segment.norm1, segment.conv2)
    x = _conv_of_normed(x, segment.norm2, segment.conv3)
    return _normed(segment.norm3.eps, x, segment.norm3.weight, segment.norm3.bias)


def convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute the convolution; see `ops.conv2d` for what is special about it.

    PyTorch's backward pass of a depthwise convolution of stride 2 is many times slower on a CPU in bfloat16 than in
    float32 (`benchmarks/choices.py` measures by how much), so with a gradient that is computed in float32.
    """
    (stride, _), (padding, _) = conv.stride, conv.padding
    assert isinstance(padding, int)
    numbers = {"stride": stride, "padding": padding, "groups": conv.groups}
    if conv.kernel_size == (1, 1) and not padding and stride == conv.groups == 1:
        tokens, weight = x.permute(0, 2, 3, 1), conv.weight.flatten(1)
        if not native.why_not(tokens, weight, conv.bias) and not native.why_slow(tokens, weight, conv.bias):
            return native.project(tokens, weight, conv.bias).permute(0, 3, 1, 2)
    if not _widens(conv, x):
        return conv2d(x, conv.weight, conv.bias, **numbers)
    with torch.autocast("cpu", enabled=False):
        return conv2d(x.float(), conv.weight.float(), None, **numbers).to(x.dtype)


def _widens(conv: nn.Conv2d, x: Tensor) -> bool:
    low = x.device.type == "cpu" and x.dtype is torch.bfloat16 and torch.is_grad_enabled()
    return low and conv.groups > 1


def _conv_of_normed(x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d) -> Tensor:
    """`conv(gelu(norm(x)))`."""
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if not again or _widens(conv, x):
        return convolved(conv, _normed(norm.eps, x, norm.weight, norm.bias, gelu=True))
    (stride, _), (padding, _) = conv.stride, conv.padding
    assert isinstance(padding, int)
    prepare = functools.partial(_normed, norm.eps, gelu=True)
    numbers = {"stride": stride, "padding": padding, "groups": conv.groups}
    return conv_after(prepare, x, (norm.weight, norm.bias), conv.weight, **numbers)


def _normed(eps: float, x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    return map_norm(x.permute(0, 2, 3, 1), weight, bias, eps=eps, gelu=gelu).permute(0, 3, 1, 2)
