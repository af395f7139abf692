"""The layers of the backbone in operations that exporters and runtimes take; `exporting.py` puts them together.

Two forms compute the same numbers. With *linear* projections and means over squares of tokens it is what PyTorch
computes fast, and what can be rounded to 8 bits. As *convolutions* it is what ONNX Runtime computes fast on a CPU: it
keeps maps in blocks of channels, in which a map that leaves a convolution enters the next one, also through a GELU;
between a convolution and a matrix product it has to be turned.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops.attention.exportable import attend
from ..ops.depthwise_conv.reference import fold_residual
from ..ops.group_tokens.exportable import group
from ..ops.key_mean_attention.exportable import attend as attend_and_measure
from ..ops.pool_keys.exportable import pool
from ..ops.rank_tokens.exportable import rank
from ..ops.resize_positions.exportable import resize
from ..ops.window_attention.exportable import attend_windows
from .attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
)
from .mlp import ConvMlp
from .stem import Downsample, Stem


class Rows(nn.Module):
    """Some of the outputs of a `Linear`, as a matrix product of two dimensions, to which runtimes add the bias at once.

    Shape:
        - x: `(..., c)`
        - returns: `(..., rows)`
    """

    def __init__(self, layer: nn.Linear, first: int = 0, end: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight[first:end].detach().clone())
        self.bias = nn.Parameter(layer.bias[first:end].detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Projects."""
        y = F.linear(x.flatten(0, -2), self.weight, self.bias)
        return y.unflatten(0, x.shape[:-1])


class PointwiseRows(Rows):
    """Apply a linear map to maps with their channels first; as a convolution if there are `convs`.

    Shape:
        - x: `(B, c, H, W)`
        - returns: `(B, rows, H, W)`
    """

    def __init__(self, layer: nn.Linear, first: int = 0, end: int | None = None, *, convs: bool) -> None:
        super().__init__(layer, first, end)
        self.convs = convs

    def forward(self, x: Tensor) -> Tensor:
        """Projects."""
        if self.convs:
            return F.conv2d(x, self.weight[:, :, None, None], self.bias)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ExportableNorm(nn.Module):
    """A `GroupNorm` of one group.

    Shape:
        - x, returns: `(B, c, H, W)`
    """

    def __init__(self, norm: nn.GroupNorm, *, convs: bool) -> None:
        super().__init__()
        self.norm, self.convs = norm, convs

    def forward(self, x: Tensor) -> Tensor:
        """Normalises."""
        norm = self.norm
        if not self.convs:
            return norm(x)
        y = F.instance_norm(x.flatten(1).unsqueeze(1), eps=norm.eps).view_as(x)
        # Scale and shift in one pass over the map, which then lies as the next convolution takes it.
        return F.conv2d(y, norm.weight[:, None, None, None], norm.bias, groups=x.shape[1])


class ExportableStem(nn.Module):
    """Exportable `Stem`; it may also stand between two stages, as `Downsample`, without positions.

    Shape:
        - x: `(B, c, H, W)`
        - returns: `(B, H', W', c')`
    """

    def __init__(self, stem: Stem | Downsample, *, convs: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList((stem.conv1, stem.conv2, stem.conv3))
        self.norms = nn.ModuleList(
            ExportableNorm(norm, convs=convs) for norm in (stem.norm1, stem.norm2, stem.norm3)
        )
        self.stem = stem if isinstance(stem, Stem) else None

    def forward(self, x: Tensor) -> Tensor:
        """Turns images into tokens, or tokens into fewer."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(F.gelu(x) if i else x))
        x = x.permute(0, 2, 3, 1)
        if (stem := self.stem) is None:
            return x
        positions = resize(stem.pos_embed, stem.grid_size, (x.shape[1], x.shape[2]))
        return stem.norm(x) + positions.unflatten(1, x.shape[1:3])


class ExportableMlp(nn.Module):
    """Exportable `ConvMlp`.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(self, mlp: ConvMlp, *, convs: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = (PointwiseRows(layer, convs=convs) for layer in (mlp.fc1, mlp.fc2))
        self.conv = mlp.conv

    def forward(self, x: Tensor) -> Tensor:
        """Mixes channels, and neighbours a little."""
        y = self.fc1(x.permute(0, 3, 1, 2))  # (B, hidden, H, W)
        return self.fc2(_convolve(self.conv, y, residual=True, gelu=True)).permute(0, 2, 3, 1)


class Positional(nn.Module):
    """The positional branch of an attention, from its projection on.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(self, layer: nn.Linear, first: int, conv: nn.Conv2d, *, convs: bool) -> None:
        super().__init__()
        self.project, self.conv = PointwiseRows(layer, first, convs=convs), conv

    def forward(self, x: Tensor) -> Tensor:
        """Looks at neighbours."""
        return _convolve(self.conv, self.project(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class ExportableHybridScale(nn.Module):
    """Exportable `HybridScaleAttention`.

    Shape:
        - x: `(B, H, W, c)`
        - returns: `(B, H, W, c)` and the significance `(B, H, W)`
    """

    def __init__(self, attn: HybridScaleAttention, *, convs: bool) -> None:
        super().__init__()
        half = attn.proj.in_features // 2
        self.attn = attn
        self.q, self.local_q, self.local_k, self.local_v = (
            Rows(attn.in_proj, i * half, (i + 1) * half) for i in range(4)
        )
        self.positional = Positional(attn.in_proj, 4 * half, attn.positional, convs=convs)
        self.kv, self.proj = Rows(attn.kv), Rows(attn.proj)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attends, and measures."""
        out_global, significance_global = self._attend_global(x)
        out_local, significance_local = self._attend_local(x)
        out = torch.cat((out_global, out_local), -1) + self.positional(x)
        return self.proj(out), (significance_global + significance_local) / 2

    def _attend_global(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, H, W, c = x.shape
        a, s = self.attn.num_heads_half, self.attn.stride
        d = c // 2 // a
        # With s - 1 zeros after it, a side gives as many squares as cover it.
        coarse = self.attn.coarse(F.pad(x.permute(0, 3, 1, 2), (0, s - 1, 0, s - 1))).permute(0, 2, 3, 1)
        coarse, t = pool(F.gelu(self.attn.coarse_norm(coarse)), self.attn.token_budget)
        h, w = coarse.shape[1:3]
        kv = self.kv(coarse).flatten(1, 2).unflatten(-1, (2, a, d))  # (B, M, 2, a, d)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, a, M, d) each
        q = self.q(x).flatten(1, 2).unflatten(-1, (a, d)).transpose(1, 2)  # (B, a, N, d)
        attended, received = attend_and_measure(q, k, v, d**-0.5, None)
        out = attended.transpose(1, 2).flatten(2).unflatten(1, (H, W))
        received = received.unflatten(-1, (h, w)) * (h * w)
        row = torch.arange(H, device=x.device) // (s * t)
        column = torch.arange(W, device=x.device) // (s * t)
        return out, received.index_select(1, row).index_select(2, column)

    def _attend_local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        projected = (project(x) for project in (self.local_q, self.local_k, self.local_v))
        return attend_windows(*projected, num_heads=self.attn.num_heads_half, size=WINDOW_SIZE)


class ExportableSelfGuided(nn.Module):
    """Exportable `SelfGuidedAttention`, with tokens ranked by significance.

    Args:
        attn: holds its layers.
        convs: the form.

    Shape:
        - x: `(B, H, W, c)`
        - significance: `(B, H, W)`
        - returns: `(B, H, W, c)`
    """

    def __init__(self, attn: SelfGuidedAttention, *, convs: bool) -> None:
        super().__init__()
        c = attn.proj.in_features
        self.attn = attn
        self.q, self.positional = (
            Rows(attn.in_proj, 0, c),
            Positional(attn.in_proj, c, attn.positional, convs=convs),
        )
        self.kv, self.proj = Rows(attn.kv), Rows(attn.proj)

    def forward(self, x: Tensor, significance: Tensor) -> Tensor:
        """Spends keys and values by significance, and attends to them."""
        kv = self.kv(self._merge(x, significance))
        return self.proj(_attend(self.q(x), kv, self.attn.num_heads) + self.positional(x))

    def _merge(self, x: Tensor, significance: Tensor) -> Tensor:
        """The summary tokens `(B, M, c)`."""
        members = group(
            x.flatten(1, 2), rank(significance.flatten(1)), self.attn.group_sizes, self.attn.token_budget
        )
        summary = [
            (cast(Tensor, f.weight) @ of_band).squeeze(2) + cast(Tensor, f.bias)
            for of_band, f in zip(members, self.attn.merge, strict=True)
        ]
        return torch.cat(summary, 1)


class ExportableGlobal(nn.Module):
    """Exportable `GlobalAttention`.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(self, attn: GlobalAttention, *, convs: bool) -> None:
        super().__init__()
        c = attn.proj.in_features
        self.num_heads, self.token_budget = attn.num_heads, attn.token_budget
        self.q, self.kv, self.proj = Rows(attn.in_proj, 0, c), Rows(attn.kv), Rows(attn.proj)
        self.positional = Positional(attn.in_proj, c, attn.positional, convs=convs)

    def forward(self, x: Tensor) -> Tensor:
        """Attends."""
        pooled, _ = pool(x, self.token_budget)
        kv = self.kv(pooled.flatten(1, 2))
        return self.proj(_attend(self.q(x), kv, self.num_heads) + self.positional(x))


def _convolve(conv: nn.Conv2d, x: Tensor, *, residual: bool = False, gelu: bool = False) -> Tensor:
    """A depthwise convolution of a map `(B, c, H, W)`."""
    weight, folded = fold_residual(x, conv.weight, residual)
    y = F.conv2d(x, weight, conv.bias, padding=1, groups=conv.groups)
    y = x + y if residual and not folded else y
    return F.gelu(y) if gelu else y


def _attend(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """Attention of a map `(B, H, W, c)` to a list `(B, M, 2c)`, keys before values."""
    _, H, W, c = q.shape
    q = q.flatten(1, 2).unflatten(-1, (num_heads, c // num_heads)).transpose(1, 2)  # (B, a, N, d)
    k, v = (
        kv.unflatten(-1, (2, num_heads, c // num_heads)).permute(2, 0, 3, 1, 4).unbind(0)
    )  # (B, a, M, d) each
    return attend(q, k, v).transpose(1, 2).flatten(2).unflatten(1, (H, W))
