"""The layers of the backbone in operations that exporters and runtimes take; `exporting.py` puts them together.

Two forms compute the same numbers. With *linear* projections and means over squares of tokens it is what PyTorch
computes fast, and what can be rounded to 8 bits. As *convolutions* it is what ONNX Runtime computes fast on a CPU: it
keeps maps in blocks of channels, in which a map that leaves a convolution enters the next one, also through a GELU;
between a convolution and a matrix product it has to be turned.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops.depthwise_conv.reference import fold_residual
from ..ops.group_tokens import cut_bands
from .attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
)
from .export_counts import factor_for, pool
from .export_counts import resize_matrix as resize_matrix
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
    """The same for a map with its channels first; as a convolution if there are `convs`.

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
    """As `Stem`; it may also stand between two stages, as `Downsample`, without positions.

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
        """Turns pictures into tokens, or tokens into fewer."""
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(F.gelu(x) if i else x))
        x = x.permute(0, 2, 3, 1)
        if (stem := self.stem) is None:
            return x
        grid = stem.pos_embed.unflatten(1, stem.grid_size).squeeze(0)  # (rows, columns, c)
        down = resize_matrix(stem.grid_size[0], x.shape[1], like=grid)
        right = resize_matrix(stem.grid_size[1], x.shape[2], like=grid)
        positions = right @ (down @ grid.flatten(1)).unflatten(1, grid.shape[1:])  # (H, W, c)
        return stem.norm(x) + positions


class ExportableMlp(nn.Module):
    """As `ConvMlp`.

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
    """As `HybridScaleAttention`.

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
        weights = _softmax((q * d**-0.5) @ k.mT)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2).unflatten(1, (H, W))
        received = weights.mean((1, 2)).unflatten(-1, (h, w)) * (h * w)
        row = torch.arange(H, device=x.device) // (s * t)
        column = torch.arange(W, device=x.device) // (s * t)
        return out, received.index_select(1, row).index_select(2, column)

    def _attend_local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        projected = (project(x) for project in (self.local_q, self.local_k, self.local_v))
        return attend_windows(*projected, num_heads=self.attn.num_heads_half, size=WINDOW_SIZE)


class ExportableSelfGuided(nn.Module):
    """As `SelfGuidedAttention`, with tokens ranked by significance.

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
        B, H, W, _ = x.shape
        N = H * W
        bands = cut_bands(N, self.attn.group_sizes)
        t = factor_for(bands, self.attn.token_budget)
        ranking = rank(significance)
        offset = torch.arange(B, device=x.device).unsqueeze(1) * N
        tokens = x.flatten(0, 2)  # (B * N, c)
        summary = []
        for (start, length, r), f in zip(bands, self.attn.merge, strict=True):
            if isinstance(length, int) and length == 0:
                continue
            place = torch.arange((length + r * t - 1) // (r * t) * (r * t), device=x.device)
            # The last group goes on from the band's start. The length is a tensor because ONNX divides by no symbol.
            place = place % torch.full((1,), length, device=x.device) + start
            members = F.embedding(ranking.index_select(1, place) + offset, tokens)
            # (B, groups, r, c): a member is one token, or the mean of t.
            if isinstance(t, int) and t == 1:
                groups = members.unflatten(1, (-1, r))
            else:
                groups = members.unflatten(1, ((length + r * t - 1) // (r * t), r, t)).mean(3)
            summary.append((cast(Tensor, f.weight) @ groups).squeeze(2) + cast(Tensor, f.bias))
        return torch.cat(summary, 1)


def rank(significance: Tensor) -> Tensor:
    """As `rank_tokens`, by `topk`, which runtimes have: a stable sort is in few, and each breaks ties in its own way.

    Equal values are numbered as one run, from the least on. Run and place together are a whole number that no two
    tokens share, and by it they are ranked once more.
    """
    flat = significance.flatten(1)
    N = flat.shape[1]
    values, place = flat.topk(N, dim=1, largest=False, sorted=True)
    later, earlier = torch.arange(1, N, device=flat.device), torch.arange(N - 1, device=flat.device)
    rises = (values.index_select(1, later) > values.index_select(1, earlier)).to(values.dtype)
    run = F.pad(
        rises.cumsum(1), (1, 0)
    ).long()  # summed as floats, exact to 2**24: some runtimes sum nothing else
    # From -N * N / 2 to N * N / 2, which 32 bits hold up to 1024x1024, for runtimes that have no more.
    order = ((run - N // 2) * N + place).topk(N, dim=1, largest=False, sorted=True).indices
    return place.gather(1, order)


class ExportableGlobal(nn.Module):
    """As `GlobalAttention`.

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
    weights = _softmax((q * (c // num_heads) ** -0.5) @ k.mT)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2).unflatten(1, (H, W))


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in float32 where the scores are in less."""
    return (scores.float() if scores.dtype.itemsize < 4 else scores).softmax(-1)


def attend_windows(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """As `window_attention`: always filled up and masked, in tensors of at most five dimensions.

    Shape:
        - q, k, v: `(B, H, W, c)`
        - returns: `(B, H, W, c)` and `(B, H, W)`
    """
    B, H, W, c = q.shape
    M = size * size
    exists = _cut(torch.ones_like(q[:1, :, :, :1]), size, 1)  # (h * w, 1, M, 1): 1 where there is a token
    num_windows = exists.shape[0]
    q, k, v = (
        _cut(x, size, num_heads) for x in (q * (c // num_heads) ** -0.5, k, v)
    )  # (B * h * w, a, M, d) each
    scores = (q @ k.mT).reshape(B, num_windows, num_heads, M, M)
    # Adding, since some runtimes compare no floats: a score loses all weight, or nothing at all.
    hidden = (exists.mT - 1) * (-torch.finfo(scores.dtype).min / 2)
    weights = _softmax(scores + hidden)
    received = (exists.mT.to(weights.dtype) @ weights).mean(2)  # (B, h * w, 1, M)
    out = weights.to(v.dtype).reshape(B * num_windows, num_heads, M, M) @ v
    received = received.reshape(B * num_windows, 1, M, 1)
    return _join(out, B, H, W, size), _join(received, B, H, W, size).squeeze(-1)


def _cut(x: Tensor, size: int, num_heads: int) -> Tensor:
    """Windows `(B * h * w, a, size * size, d)` of a map `(B, H, W, a * d)`, filled up with zeros at its edges."""
    _, H, W, c = x.shape
    h, w = (H + size - 1) // size, (W + size - 1) // size
    x = F.pad(x, (0, 0, 0, w * size - W, 0, h * size - H))
    # By `unflatten`, in which `torch.export` sees that sizes it does not know divide.
    x = x.unflatten(1, (h, size)).flatten(0, 1).unflatten(2, (w, size))  # (B * h, size, w, size, c)
    x = x.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return x.unflatten(2, (num_heads, c // num_heads)).transpose(1, 2)


def _join(windows: Tensor, batch: Any, height: Any, width: Any, size: int) -> Tensor:
    """The map `(B, height, width, a * d)` from whose windows `(B * h * w, a, size * size, d)` came."""
    h, w = (height + size - 1) // size, (width + size - 1) // size
    row = torch.arange(height, device=windows.device).unsqueeze(1)
    column = torch.arange(width, device=windows.device)
    place = (row // size * w + column // size) * size**2 + row % size * size + column % size  # of each token
    x = windows.transpose(1, 2).flatten(2).unflatten(0, (batch, h * w)).flatten(1, 2)
    return x.index_select(1, place.flatten()).unflatten(1, (height, width))
