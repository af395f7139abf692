"""Inference on a CPU a strip of rows at a time, where maps are too large for the cache.

The hidden map of an MLP is four times as large as its input. Written to memory and read again by every operation, it
costs more time than the products, and most of the memory of a pass. So the MLP of a block, with its norm and residual,
goes over each image in strips whose hidden rows stay in the cache: no hidden map is ever whole. What the depthwise
convolution needs of the strips above and below, a row of each, is computed twice. An attention goes over the image
likewise, once its keys and values are there. Each strip is the work of one thread (`workers.py`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..backbone.attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
    attend,
    attend_coarsely,
    spread,
)
from ..backbone.blocks import Block
from ..ops import gelu_, linear, native, pool_keys, rank_tokens, window_attention
from ..ops.depthwise_conv.reference import fold_residual
from ..ops.linear.convolution import MKL_IS_SLOW
from .conditions import LAYERS, inference_objection, layers_objection, observed_within
from .fused import Instead, coarse_tokens, project, summary_tokens
from .workers import each

# Hidden maps of up to so many numbers are whole, as in `native.py`: PyTorch's threads go on looking for work for as
# long as a strip of them takes. Where MKL is slow, strips were measured to pay for all that do not fit the cache.
MAX_HIDDEN = 0 if MKL_IS_SLOW else 2**22
# Numbers in the hidden rows of a strip, at most: 8 MB in float32. Smaller ones compute more rows twice.
STRIP_SIZE = 2**21
# The kernel in C++ goes down so many rows of a strip by itself, a few at a time.
KERNEL_ROWS = 48
# Numbers in the rows of a strip of an attention's map, at most.
ATTENTION_STRIP_SIZE = 2**19
# Coarse tokens are computed so many rows at a time.
ROWS_OF_COARSE_TOKENS = 8


def why_not_block(block: Block, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence."""
    if block.training or block.drop_path2.training:
        return "it is in training mode"
    hidden = getattr(getattr(block.mlp, "fc1", None), "out_features", 0)
    size = x.numel() // x.shape[-1] * hidden
    if reason := inference_objection(x, size):
        return reason
    return "the hidden map is small" if size <= MAX_HIDDEN else layers_objection(block)


def block(block: Block, *inputs: Tensor) -> Any:
    """A block whose MLP goes over the map in strips, in the memory of the map that it is added to."""

    def add(x: Tensor, attended: Tensor) -> Tensor:
        attended = block.drop_path1(attended)
        # Nobody else holds what an attention of ours made, unless a hook kept it.
        is_ours = type(block.attn) in LAYERS and not any(observed_within(block.attn, block.drop_path1))
        x = attended.add_(x) if is_ours and attended.dtype == x.dtype else x + attended
        return _add_mlp_(x, block.norm2, block.mlp.fc1, block.mlp.conv, block.mlp.fc2)

    return Instead(block, add=add).plain(*inputs)


def _add_mlp_(x: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, conv: nn.Conv2d, fc2: nn.Linear) -> Tensor:
    """`x + mlp(norm(x))` of a map `(B, H, W, c)`, a strip of rows at a time, in the memory of `x`. No gradient."""
    B, H, W, c = x.shape
    layers: Any = [(layer.weight, layer.bias) for layer in (norm, fc1, conv, fc2)]
    tensors, channels = [x, *(tensor for layer in layers for tensor in layer)], math.gcd(c, fc1.out_features)
    by_kernel = channels % native.INNER == 0 and all(tensor.is_contiguous() for tensor in tensors)
    by_kernel = by_kernel and native.objection(tensors, channels=channels, products=True) is None
    height = _height(H, KERNEL_ROWS if by_kernel else max(2, STRIP_SIZE // (W * fc1.out_features)))
    strips = [(b, top) for b in range(B) for top in range(0, H, height)]
    # What a strip needs of its neighbours, before they are overwritten.
    rows_above = [x[b, max(top - 1, 0) : top].clone() for b, top in strips]
    rows_below = [x[b, top + height : top + height + 1].clone() for b, top in strips]

    def add(b: int, top: int, above: Tensor, below: Tensor) -> None:
        strip = x[b, top : top + height]
        if by_kernel:
            return native.add_mlp_(strip, above, below, layers, fc1.out_features, norm.eps)
        rows = project(fc1, norm(torch.cat((above, strip, below))))
        rows = _convolve_rows(conv, rows, above=top > 0, below=top + height < H, residual=True, gelu=True)
        strip += project(fc2, rows)

    each(add, [(*strip, *rows) for strip, *rows in zip(strips, rows_above, rows_below, strict=True)])
    return x


def _height(H: int, most: int, multiple: int = 1) -> int:
    """Choose how many rows, a multiple, strips of a map have: at most so many, in an even number of like strips."""
    strips = math.ceil(H / most)
    strips += strips % 2 if strips > 1 else 0
    return math.ceil(H / strips / multiple) * multiple


def _convolve_rows(conv: nn.Conv2d, rows: Tensor, *, above: bool, below: bool, residual: bool, gelu: bool) -> Tensor:
    """A depthwise convolution of rows `(rows + 2, W, c)`, two more than come out; may overwrite them."""
    if native.objection((rows, conv.weight, conv.bias), channels=rows.shape[-1]) is None:  # pyright: ignore
        inner = rows[above : len(rows) - below].unsqueeze(0)
        more = inner if residual else None
        bias: Any = conv.bias
        edges = {"above": above, "below": below}
        return native.depthwise_conv(inner, conv.weight, bias, more, gelu=gelu, **edges).squeeze(0)
    if not (above and below):  # zeros at the edges of the map
        rows = F.pad(rows, (0, 0, 0, 0, int(not above), int(not below)))
    weight, folded = fold_residual(rows, conv.weight, residual)
    x = rows.unsqueeze(0).permute(0, 3, 1, 2)  # in this order: only so it counts as channels last
    y = F.conv2d(x, weight, conv.bias, padding=(0, 1), groups=conv.groups).squeeze(0).permute(1, 2, 0)
    y = y.add_(rows[1:-1]) if residual and not folded else y
    return gelu_(y) if gelu else y


def why_not_attention(attn: Any, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence."""
    return inference_objection(x, x.numel()) or layers_objection(attn)


def hybrid_scale(attn: HybridScaleAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `HybridScaleAttention`."""
    B, H, W, c = x.shape
    a = attn.num_heads_half
    rows = zip(x.split(attn.stride * ROWS_OF_COARSE_TOKENS, 1))
    coarse = torch.cat(each(functools.partial(coarse_tokens, attn), rows), 1)
    coarse, t = pool_keys(coarse, attn.token_budget)
    kv = project(attn.kv, coarse)  # (B, h, w, c)
    dtype = torch.promote_types(x.dtype, torch.float32)
    significance_local = x.new_empty((B, H, W), dtype=dtype)

    def attend_rows(b: int, top: int, q: Tensor, qkv: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        height = q.shape[1]
        out_global, received = attend_coarsely(q, kv[b : b + 1], a)
        out_local, significance_local[b, top : top + height] = window_attention(qkv, num_heads=a, size=WINDOW_SIZE)
        return (out_global, out_local), received[0] * (height / H)

    out, received = _attend(attn, x, (c // 2, 3 * c // 2, c), attend_rows, multiple=WINDOW_SIZE)
    received = torch.stack(received).unflatten(0, (B, -1)).sum(1)  # (B, h, w)
    return out, (spread(received, x, attn.stride * t) + significance_local) / 2


def self_guided(attn: SelfGuidedAttention, x: Tensor, significance: Tensor) -> Tensor:
    """Compute `SelfGuidedAttention`."""
    summary = summary_tokens(attn, x.flatten(1, 2), rank_tokens(significance))
    return _attend_to_keys(attn, x, summary)


def all_to_all(attn: GlobalAttention, x: Tensor) -> Tensor:
    """Compute `GlobalAttention`."""
    pooled, _ = pool_keys(x, attn.token_budget)
    return _attend_to_keys(attn, x, pooled)


def _attend_to_keys(attn: SelfGuidedAttention | GlobalAttention, x: Tensor, keys: Tensor) -> Tensor:
    kv = project(attn.kv, keys)

    def attend_rows(b: int, top: int, q: Tensor) -> tuple[tuple[Tensor], None]:
        return (attend(q, kv[b : b + 1], attn.num_heads),), None

    return _attend(attn, x, (x.shape[-1],) * 2, attend_rows)[0]


def _attend(
    attn: Any,
    x: Tensor,
    sizes: tuple[int, ...],
    attend_rows: Callable[..., tuple[tuple[Tensor, ...], Any]],
    *,
    multiple: int = 1,
) -> tuple[Tensor, list[Any]]:
    """An attention to keys that are known, with its projections and its positional branch, a strip of rows at a time.

    `sizes` are the channels of the parts that its first projection makes; strips are of a `multiple` of rows.
    `attend_rows` takes the number of the image, the first row and the parts of a strip, the last one left out; it
    returns what tokens find, in parts that add up to `c` channels, and what else is to be known of the strip. Gives the
    map, and the latter for each strip, image by image from top to bottom.
    """
    B, H, W, c = x.shape
    height = _height(H, max(1, ATTENTION_STRIP_SIZE // (W * c * multiple)) * multiple, multiple)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    weights, biases = attn.in_proj.weight.split(sizes), attn.in_proj.bias.split(sizes)
    *of_parts, of_branch = zip(weights, biases, strict=True)

    def of_strip(b: int, top: int) -> Any:
        bottom = min(top + height, H)
        parts = [linear(x[b : b + 1, top:bottom], *layer) for layer in of_parts]
        found, more = attend_rows(b, top, *parts)
        branch = linear(x[b, max(top - 1, 0) : bottom + 1], *of_branch)
        y = _convolve_rows(attn.positional, branch, above=top > 0, below=bottom < H, residual=False, gelu=False)
        for of_y, part in zip(y.split([part.shape[-1] for part in found], -1), found, strict=True):
            of_y += part[0]
        out[b, top:bottom] = project(attn.proj, y)
        return more

    return out, each(of_strip, [(b, top) for b in range(B) for top in range(0, H, height)])
