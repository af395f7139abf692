"""The three attentions of SG-Former.

All take and return token maps `(B, H, W, c)`. Each adds a *positional branch*, a depthwise convolution of projected
tokens, before its output projection. Projections of the same input are one `Linear` each, so that they are one matrix
product; `official.py` knows which rows are which of the released model's.
"""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops import (
    Spending,
    attention,
    group_tokens,
    key_mean_attention,
    pool_keys,
    rank_tokens,
    spend_tokens,
    window_attention,
)
from .segment import Segment

WINDOW_SIZE = 7

# The paper's group sizes: how many tokens become one key, for each band of the ranking (`ops.group_tokens.cut_bands`),
# the least significant first, by stride. At 224x224 they give 60, 60 and 147 keys for 3136, 784 and 196 tokens.
GROUP_SIZES = {8: (196, 56, 28), 4: (49, 14, 7), 2: (2, 1)}


class HybridScaleAttention(Segment):
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
        self, channels: int, num_heads: int, *, stride: int, token_budget: int | None = None, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if num_heads % 2 or channels % num_heads:
            raise ValueError(f"{num_heads} heads are not an even divisor of {channels} channels; one half is global")
        self.num_heads_half = num_heads // 2
        self.stride = stride
        self.token_budget = token_budget
        # Rows: global queries c/2, local queries, keys and values c/2 each, positional branch c.
        self.in_proj = nn.Linear(channels, 3 * channels, **dd)
        self.coarse = nn.Conv2d(channels, channels, stride, stride, **dd)
        self.coarse_norm = nn.LayerNorm(channels, eps=1e-5, **dd)
        self.kv = nn.Linear(channels, channels, **dd)
        self.positional = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Global attention by half of the heads, window attention by the others, and the significance of both."""
        c = x.shape[-1]
        q, qkv, branch = self.in_proj(x).split((c // 2, 3 * c // 2, c), -1)
        # (B, h, w, c), a token for each square of s x s; where a budget asks for fewer, the means of t x t of them.
        coarse, t = pool_keys(self.coarse_tokens(x), self.token_budget)
        out_global, received = attend_coarsely(q, self.kv(coarse), self.num_heads_half)
        out_local, significance_local = window_attention(qkv, num_heads=self.num_heads_half, size=WINDOW_SIZE)
        significance = (spread(received, x, self.stride * t) + significance_local) / 2
        out = torch.cat((out_global, out_local), -1) + convolve(self.positional, branch)
        return self.proj(out), significance

    def coarse_tokens(self, x: Tensor) -> Tensor:
        """Pool each square of `s x s` into one token, zeros beyond the map: `(B, ceil(H / s), ceil(W / s), c)`."""
        margin = self.stride - 1  # the convolution rounds down; with these zeros it makes ceil(H / s) rows
        x = F.pad(x.permute(0, 3, 1, 2), (0, margin, 0, margin))
        return F.gelu(self.coarse_norm(self.coarse(x).permute(0, 2, 3, 1)))


def attend_coarsely(q: Tensor, kv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Attention of all tokens `(B, H, W, c)` to a grid of coarse ones, and what each receives, 1 on average.

    `kv` is `(B, h, w, 2c)`, keys before values; what is received `(B, h, w)`.
    """
    B, H, W, c = q.shape
    h, w = kv.shape[1:3]
    out, key_mean = key_mean_attention(split_heads(q, num_heads), *keys_and_values(kv, num_heads))
    # From heads (B, a, N, d) back to a map.
    return out.transpose(1, 2).reshape(B, H, W, c), (key_mean * (h * w)).view(B, h, w)


def spread(received: Tensor, x: Tensor, side: int) -> Tensor:
    """Give each token of a map `(B, H, W, c)` what the coarse token `(B, h, w)` of its square of `side` received."""
    row = torch.arange(x.shape[1], device=x.device) // side
    column = torch.arange(x.shape[2], device=x.device) // side
    return received.index_select(1, row).index_select(2, column)


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of a map `(B, H, W, c)`; the permutes copy nothing."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SelfGuidedAttention(Segment):
    """All tokens attend to a short list of summary tokens, most of them of the significant regions.

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

    Source:
        The paper's "self-guided attention".
    """

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
        self.merge = nn.ModuleList(nn.Linear(r, 1, **dd) for r in self.num_members)
        self.kv = nn.Linear(channels, 2 * channels, **dd)
        self.positional = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    @property
    def num_members(self) -> tuple[int, ...]:
        """Count the members of a group that each layer of `merge` weighs."""
        return self.group_sizes

    def plain(self, x: Tensor, significance: Tensor) -> Tensor:
        """Merges tokens by significance into `M` summary tokens, and attends to them."""
        c = x.shape[-1]
        q, branch = self.in_proj(x).split((c, c), -1)
        summary = self.summary_tokens(x.flatten(1, 2), rank_tokens(significance))
        out = attend(q, self.kv(summary), self.num_heads)
        return self.proj(out + convolve(self.positional, branch))

    def summary_tokens(self, x: Tensor, ranking: Tensor) -> Tensor:
        """Tokens `(B, N, c)` merged by their ranking `(B, N)`, the finer the more significant they are: `(B, M, c)`."""
        groups = group_tokens(x, ranking, self.group_sizes, token_budget=self.token_budget)
        merged = [f(members.transpose(-2, -1)).squeeze(-1) for f, members in zip(self.merge, groups, strict=True)]
        return torch.cat(merged, 1)

    def spend(self, significance: Tensor) -> Spending:
        """Group size and share of a key of each token, `(B, H, W)` both; for figures, not used in `plain`."""
        ranking = rank_tokens(significance)
        spending = spend_tokens(ranking, self.group_sizes, token_budget=self.token_budget)
        return Spending(*(values.view(significance.shape) for values in spending))


class GlobalAttention(Segment):
    """All tokens attend to all tokens, or to their averages over cells where a budget bounds their number.

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
        self.positional = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **dd)
        self.proj = nn.Linear(channels, channels, **dd)

    def plain(self, x: Tensor) -> Tensor:
        """Attention of all tokens to all tokens, or to averages of cells."""
        c = x.shape[-1]
        q, branch = self.in_proj(x).split((c, c), -1)
        pooled, _ = pool_keys(x, self.token_budget)
        out = attend(q, self.kv(pooled), self.num_heads)
        return self.proj(out + convolve(self.positional, branch))


def attend(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """Attention of a map of queries to keys and values, a list or a grid of them.

    `kv` is `(B, ..., 2c)`, keys before values.
    """
    out = attention(split_heads(q, num_heads), *keys_and_values(kv, num_heads))  # (B, a, N, d)
    return out.transpose(1, 2).reshape(q.shape)


def split_heads(q: Tensor, num_heads: int) -> Tensor:
    """Queries `(B, H, W, c)` by head: `(B, a, N, d)`."""
    return q.flatten(1, 2).unflatten(-1, (num_heads, -1)).transpose(1, 2)


def keys_and_values(kv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values `(B, ..., 2c)` by head: `(B, a, M, d)` each."""
    k, v = kv.flatten(1, -2).unflatten(-1, (2 * num_heads, -1)).transpose(1, 2).chunk(2, 1)  # of (B, 2a, M, d)
    return k, v
