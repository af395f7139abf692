"""The three attentions of SG-Former, and the depthwise convolution that all of them share.

All take and return token maps `(B, H, W, c)`. Each adds a *positional branch*, a depthwise convolution of projected
tokens, before its output projection. Projections of the same input are one `Linear` each, so that they are one matrix
product; `official.py` knows which rows are which of the released model's.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops import (
    Spending,
    attention,
    depthwise_conv,
    gelu_,
    key_mean_attention,
    linear,
    linear_after,
    merge_tokens,
    spend_tokens,
    window_attention,
)
from ..ops.depthwise_conv.reference import fold_residual
from . import strips
from .guidance import Guidance, ranking_of

WINDOW_SIZE = 7
# In prediction, coarse tokens of large maps are computed so many rows at a time.
ROWS_OF_COARSE_TOKENS = 8

# Group sizes of the bands by the stage's stride, from the least to the most significant band.
GROUP_SIZES = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}


class DepthwiseConv(nn.Conv2d):
    """A 3x3 depthwise convolution of a token map.

    Args:
        channels: `c`.
        residual: add the input to the output.
        gelu: pass the sum through a GELU.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(
        self, channels: int, *, residual: bool = False, gelu: bool = False, device=None, dtype=None
    ) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, device=device, dtype=dtype)
        self.residual = residual
        self.gelu = gelu

    def forward(self, input: Tensor) -> Tensor:
        """Convolves; a map with channels last needs no copy."""
        assert self.bias is not None
        return depthwise_conv(input, self.weight, self.bias, residual=self.residual, gelu=self.gelu)

    def convolve_rows(self, rows: Tensor) -> Tensor:
        """The same for some rows of a map, given with one row above and one below them. No gradient.

        Shape:
            - rows: `(rows + 2, W, c)`
            - returns: `(rows, W, c)`
        """
        weight, folded = fold_residual(rows, self.weight, self.residual)
        x = rows.unsqueeze(0).permute(0, 3, 1, 2)  # in this order: only so it counts as channels last
        y = F.conv2d(x, weight, self.bias, padding=(0, 1), groups=self.groups).squeeze(0).permute(1, 2, 0)
        y = y.add_(rows[1:-1]) if self.residual and not folded else y
        return gelu_(y) if self.gelu else y


class HybridScaleAttention(nn.Module):
    """Half of the heads see the whole image coarsely, the other half a 7x7 window; together they measure significance.

    Significance is the mean weight that a token receives, as a coarse key and within its window, in units in which
    the mean over the image is 1 (within a few per cent where the stride does not divide the map). It carries no
    gradient and keeps at least the precision of float32.

    Args:
        channels: `c`.
        num_heads: `a`, even; half of them are global.
        stride: `s`, side of the square of tokens that one coarse key stands for.
        token_budget: the most coarse keys; None for as many as the map gives.

    Shape:
        - x: `(B, H, W, c)`
        - returns: `(B, H, W, c)` and the significance `(B, H, W)`

    Source:
        The paper's "hybrid-scale attention".
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        stride: int,
        token_budget: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if num_heads % 2 or channels % num_heads:
            raise ValueError(
                f"{num_heads} heads are not an even divisor of {channels} channels; one half is global"
            )
        self.num_heads_half = num_heads // 2
        self.stride = stride
        self.token_budget = token_budget
        # Rows: global queries c/2, local queries, keys and values c/2 each, positional branch c.
        self.in_proj = nn.Linear(channels, 3 * channels, **dd)
        self.coarse = nn.Conv2d(channels, channels, stride, stride, **dd)
        self.coarse_norm = nn.LayerNorm(channels, eps=1e-5, **dd)
        self.kv = nn.Linear(channels, channels, **dd)
        self.positional = DepthwiseConv(channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attends, and measures."""
        c = x.shape[-1]
        sizes = c // 2, 3 * c // 2, c
        k, v, grid = self._coarse_keys(x)
        if strips.large_map(x, self.in_proj, self.positional, self.proj):
            return self._attend_in_strips(x, sizes, k, v, grid)
        q, qkv_local, positional = strips.project(x, self.in_proj, sizes)
        out_global, received = self._attend_global(q, k, v)
        out_local, significance_local = self._attend_local(qkv_local)
        out = strips.add_parts(self.positional(positional), out_global, out_local, made_by=self.positional)
        return strips.apply(self.proj, out), (self._spread(received, x, grid) + significance_local) / 2

    def _attend_in_strips(
        self, x: Tensor, sizes: tuple[int, ...], k: Tensor, v: Tensor, grid: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor]:
        B, H, W, _ = x.shape
        dtype = torch.promote_types(x.dtype, torch.float32)
        received = k.new_zeros((B, k.shape[2]), dtype=dtype)
        significance_local = x.new_empty((B, H, W), dtype=dtype)

        def attend_rows(b: int, top: int, q: Tensor, qkv_local: Tensor) -> tuple[Tensor, Tensor]:
            height = q.shape[1]
            out_global, of_rows = self._attend_global(q, k[b : b + 1], v[b : b + 1])
            received[b] += of_rows[0] * (height / H)
            out_local, significance_local[b, top : top + height] = self._attend_local(qkv_local)
            return out_global, out_local

        branch = self.positional.convolve_rows
        out = strips.attend(x, self.in_proj, sizes, attend_rows, branch, self.proj, multiple=WINDOW_SIZE)
        return out, (self._spread(received, x, grid) + significance_local) / 2

    def _coarse_keys(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Keys and values `(B, a, h * w, d)` of the coarse tokens; and h, w and the side of what one stands for."""
        B, _, _, c = x.shape
        a = self.num_heads_half
        coarse, t = pool_to_budget(self._coarsen(x), self.token_budget)  # (B, h, w, c)
        h, w = coarse.shape[1:3]
        k, v = strips.apply(self.kv, coarse).view(B, h * w, 2, a, c // 2 // a).permute(2, 0, 3, 1, 4)
        return k, v, (h, w, self.stride * t)

    def _attend_global(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Queries `(B, H, W, c/2)` look at the coarse tokens. Output as they are, and key means `(B, h * w)`."""
        B, H, W, c_half = q.shape
        a = self.num_heads_half
        q = q.view(B, H * W, a, c_half // a).transpose(1, 2)  # (B, a, N, d)
        out, key_mean = key_mean_attention(q, k, v)
        return out.transpose(1, 2).reshape(B, H, W, c_half), key_mean

    def _attend_local(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        return window_attention(qkv, num_heads=self.num_heads_half, size=WINDOW_SIZE)

    def _spread(self, key_mean: Tensor, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """What the coarse tokens received, given to the tokens that they stand for: `(B, H, W)`."""
        (B, H, W, _), (h, w, side) = x.shape, grid
        significance = (key_mean * (h * w)).view(B, h, w)
        row = torch.arange(H, device=x.device) // side
        column = torch.arange(W, device=x.device) // side
        return significance.index_select(1, row).index_select(2, column)

    def _coarsen(self, x: Tensor) -> Tensor:
        """Coarse tokens `(B, ceil(H / s), ceil(W / s), c)`: a convolution without overlap, as a matrix product."""
        c, s = x.shape[-1], self.stride
        if type(self.coarse) is not nn.Conv2d or not strips.unobserved(self.coarse):  # replaced, or hooked
            _, H, W, _ = x.shape
            coarse = self.coarse(F.pad(x.permute(0, 3, 1, 2), (0, -W % s, 0, -H % s)))
            return F.gelu(self.coarse_norm(coarse.permute(0, 2, 3, 1)))
        weight = self.coarse.weight.permute(0, 2, 3, 1).reshape(c, -1)
        prepare = functools.partial(_patches, s)
        if strips.large_map(x):
            rows = x.split(s * ROWS_OF_COARSE_TOKENS, 1)
            coarse = torch.cat([linear(prepare(part), weight, self.coarse.bias) for part in rows], 1)
        elif strips.keeps_for_gradient():
            coarse = linear_after(prepare, x, (), weight, self.coarse.bias)
        else:
            coarse = linear(prepare(x), weight, self.coarse.bias)
        return F.gelu(self.coarse_norm(coarse))


def _patches(side: int, x: Tensor) -> Tensor:
    """A map cut into squares, filled up with zeros: `(B, H, W, c)` to `(B, h, w, side * side * c)`."""
    _, H, W, _ = x.shape
    if H % side or W % side:
        x = F.pad(x, (0, 0, 0, -W % side, 0, -H % side))
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3)


class SelfGuidedAttention(nn.Module):
    """All tokens look at a short list of summary tokens, in which salient regions hold many and the rest few.

    Args:
        channels: `c`.
        num_heads: `a`.
        group_sizes: for each band of the ranking, from the least to the most significant, how many tokens are merged
            into one.
        token_budget: the most summary tokens; None for as many as the group sizes give.

    Shape:
        - x: `(B, H, W, c)`
        - significance: `(B, H, W)`
        - returns: `(B, H, W, c)`

    Attributes:
        guidance, guidance_seed: what the tokens are ranked by; see `ranking_of`.

    Source:
        The paper's "self-guided attention".
    """

    guidance: Guidance = "significance"
    guidance_seed = 0

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        group_sizes: tuple[int, ...],
        token_budget: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.group_sizes = group_sizes
        self.token_budget = token_budget
        self.in_proj = nn.Linear(channels, 2 * channels, **dd)  # rows: queries, positional branch
        self.merge = nn.ModuleList(nn.Linear(r, 1, **dd) for r in group_sizes)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.positional = DepthwiseConv(channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor, significance: Tensor) -> Tensor:
        """Spends keys and values by significance, and attends to them."""
        summary = merge_tokens(
            x.flatten(1, 2),
            self.rank(significance),
            [cast(Tensor, f.weight).squeeze(0) for f in self.merge],
            [cast(Tensor, f.bias) for f in self.merge],
            token_budget=self.token_budget,
        )  # (B, M, c)
        return _attend_to_keys(self, x, strips.apply(self.kv, summary))

    def rank(self, significance: Tensor) -> Tensor:
        """The tokens `(B, N)` in the order in which they are merged, from the least to the most significant."""
        return ranking_of(significance, self.guidance, len(self.group_sizes), seed=self.guidance_seed)

    def spend(self, significance: Tensor) -> Spending:
        """What merging by this significance makes of each token, `(B, H, W)` both."""
        spending = spend_tokens(self.rank(significance), self.group_sizes, token_budget=self.token_budget)
        return Spending(*(values.view(significance.shape) for values in spending))


class GlobalAttention(nn.Module):
    """All tokens look at all tokens, or at their averages over cells where a budget bounds their number.

    Args:
        channels: `c`.
        num_heads: `a`.
        token_budget: the most keys; None for as many as there are tokens.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(
        self, channels: int, num_heads: int, *, token_budget: int | None = None, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.token_budget = token_budget
        self.in_proj = nn.Linear(channels, 2 * channels, **dd)  # rows: queries, positional branch
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.positional = DepthwiseConv(channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Attends."""
        pooled, _ = pool_to_budget(x, self.token_budget)
        return _attend_to_keys(self, x, strips.apply(self.kv, pooled.flatten(1, 2)))


def _attend_to_keys(module: SelfGuidedAttention | GlobalAttention, x: Tensor, kv: Tensor) -> Tensor:
    """What both do once keys and values `(B, M, 2c)` are there: `(B, H, W, c)` to the same."""
    sizes = x.shape[-1], x.shape[-1]
    in_proj, positional, proj = module.in_proj, module.positional, module.proj
    if strips.large_map(x, in_proj, positional, proj):

        def attend_rows(b: int, top: int, q: Tensor) -> tuple[Tensor]:
            return (attend(q, kv[b : b + 1], module.num_heads),)

        return strips.attend(x, in_proj, sizes, attend_rows, positional.convolve_rows, proj)
    q, branch = strips.project(x, in_proj, sizes)
    out = attend(q, kv, module.num_heads)
    return strips.apply(proj, strips.add_parts(positional(branch), out, made_by=positional))


def attend(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """Attention of a map of queries to a list of keys and values.

    Shape:
        - q: `(B, H, W, c)`
        - kv: `(B, M, 2c)`, keys before values
        - returns: `(B, H, W, c)`
    """
    B, H, W, c = q.shape
    q = q.view(B, H * W, num_heads, c // num_heads).transpose(1, 2)  # (B, a, N, d)
    k, v = kv.view(B, kv.shape[1], 2, num_heads, c // num_heads).permute(2, 0, 3, 1, 4)  # (B, a, M, d) each
    return attention(q, k, v).transpose(1, 2).reshape(B, H, W, c)


def pool_to_budget(keys: Tensor, budget: int | None) -> tuple[Tensor, int]:
    """Averages a grid of key tokens over `t x t` cells, edge cells over what exists, so that at most `budget` remain.

    Returns:
        The pooled grid, and `t`, the smallest side of a cell that keeps to the budget.

    Shape:
        - keys: `(B, h, w, c)`
        - returns: `(B, ceil(h / t), ceil(w / t), c)`

    Example:
        >>> pooled, t = pool_to_budget(torch.ones(1, 28, 42, 8), 196)
        >>> pooled.shape, t
        (torch.Size([1, 10, 14, 8]), 3)
    """
    h, w = keys.shape[1:3]
    t = 1
    if budget is not None:
        while -(-h // t) * -(-w // t) > budget:
            t += 1
    if t == 1:
        return keys, 1
    pooled = F.avg_pool2d(keys.permute(0, 3, 1, 2), t, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1), t
