"""Ways for exported programs: what runtimes compute fast, rather than PyTorch.

Products have two dimensions, to which runtimes add the bias at once, and none is cut apart after it. As *convolutions*,
projections beside convolutions are what ONNX Runtime and OpenVINO compute fast on a CPU: they keep maps in blocks of
channels, in which a map that leaves a convolution enters the next one, also through a GELU; between a convolution and a
matrix product it has to be turned.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from ..backbone.mlp import ConvMlp
from ..backbone.segment import Segment
from ..backbone.stem import Downsample, Stem
from ..ops import dispatch, group_tokens
from ..ops.depthwise_conv.reference import fold_residual
from .conditions import layers_objection
from .fused import Instead

_convolutions = False


@contextmanager
def convolutions(wanted: bool = True) -> Iterator[None]:
    """Inside this context exported programs have projections beside convolutions as convolutions, too."""
    global _convolutions
    before, _convolutions = _convolutions, wanted
    try:
        yield
    finally:
        _convolutions = before


def why_not(segment: Segment, *inputs: Tensor) -> str | None:
    """None, or a sentence."""
    if not dispatch.is_exporting():
        return "it is for torch.export"
    return "within sgformer.plain()" if dispatch.is_plain() else layers_objection(segment)


def why_not_convolutions(segment: Segment, *inputs: Tensor) -> str | None:
    """None, or a sentence."""
    return why_not(segment, *inputs) if _convolutions else "convolutions are not asked for"


def attention(attn: HybridScaleAttention | SelfGuidedAttention | GlobalAttention, *inputs: Tensor) -> Any:
    """Any of the three attentions."""
    parts: dict[str, Any] = {"in_proj": functools.partial(Projected, attn.in_proj)}
    parts |= {name: functools.partial(project, getattr(attn, name)) for name in ("kv", "proj")}
    if isinstance(attn, SelfGuidedAttention):
        parts["summary_tokens"] = functools.partial(summary_tokens, attn)
    return Instead(attn, **parts).plain(*inputs)


class Projected:
    """Several projections that are one `Linear`, each computed when it is split.

    Args:
        layer: whose rows they are; the last ones are those of the positional branch.
        x: what it takes, `(B, H, W, c)`.
    """

    def __init__(self, layer: nn.Linear, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def split(self, sizes: Sequence[int], _dim: int) -> list[Tensor]:
        """The projections, with so many outputs each."""
        rows = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        *others, branch = ((self.layer.weight[some], self.layer.bias[some]) for some in rows)
        projections = [_product(self.x, weight, bias) for weight, bias in others]
        if not _convolutions:
            return [*projections, _product(self.x, *branch)]
        weight, bias = branch
        y = F.conv2d(self.x.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
        return [*projections, y.permute(0, 2, 3, 1)]


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """Project `(..., c)` by a layer."""
    return _product(x, layer.weight, layer.bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


def summary_tokens(attn: SelfGuidedAttention, x: Tensor, ranking: Tensor) -> Tensor:
    """Merging without turning what is merged.

    Shape:
        - x: `(B, N, c)`; ranking: `(B, N)`
        - returns: `(B, M, c)`
    """
    groups = group_tokens(x, ranking, attn.group_sizes, token_budget=attn.token_budget)
    layers: Any = attn.merge
    merged = [f.weight @ members + f.bias for f, members in zip(layers, groups, strict=True)]
    return torch.cat(merged, 1).flatten(1, 2)


def mlp(mlp: ConvMlp, x: Tensor) -> Tensor:
    """The MLP as three convolutions, or as one between two products."""
    weight, folded = fold_residual(x, mlp.conv.weight, True)
    y = _projected_map(mlp.fc1, x.permute(0, 3, 1, 2))
    z = F.conv2d(y, weight, mlp.conv.bias, padding=1, groups=mlp.conv.groups)
    return _projected_map(mlp.fc2, F.gelu(z if folded else y + z)).permute(0, 2, 3, 1)


def _projected_map(layer: nn.Linear, x: Tensor) -> Tensor:
    """Project `(B, c, H, W)` by a layer."""
    if _convolutions:
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
    return project(layer, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def stem(stem: Stem, x: Tensor) -> Tensor:
    """The stem."""
    return Instead(stem, embed=functools.partial(chain, stem)).plain(x)


def chain(segment: Stem | Downsample, x: Tensor) -> Tensor:
    """Three convolutions, each with a norm.

    Shape:
        - x: `(B, c, H, W)`
        - returns: `(B, c', H', W')`
    """
    x = F.gelu(_normed(segment.norm1, segment.conv1(x)))
    x = F.gelu(_normed(segment.norm2, segment.conv2(x)))
    return _normed(segment.norm3, segment.conv3(x))


def _normed(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """The norm, with scale and shift as a convolution, after which the map lies as the next one takes it."""
    # Its length is told: of one that is left open (-1) after a convolution, IREE 3.13 computes NaN.
    y = F.instance_norm(x.reshape(x.shape[0], 1, math.prod(x.shape[1:])), eps=norm.eps).view_as(x)
    return F.conv2d(y, norm.weight[:, None, None, None], norm.bias, groups=x.shape[1])
