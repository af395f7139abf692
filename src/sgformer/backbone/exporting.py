"""The backbone in a form that exporters take: a second way to compute it, for height and width that are not known yet.

`torch.export` follows a model with symbols in place of sizes, and stops where the code asks a question about them (does
7 divide this?) or cuts a tensor at a computed place. `ExportableFeatures` computes the numbers of `SGFormer` without
either: windows are always padded and masked, crops are selections by index, and positions are resized by matrix
products, which no runtime can read in its own way. What a token budget asks for is not searched but counted, so that
the file counts it for the picture at hand. It holds the model's own layers.

It returns the significance maps, too. So a file can be judged with the ranking held: the model is given the maps that
the file measured, and must then give what the file gives.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops.merge_tokens import cut_bands, group_factor
from ..ops.merge_tokens.bands import Band
from .attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
    pool_to_budget,
)
from .blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock, Stage, Stem
from .ranking import hold_significance, record_significance
from .sgformer import SGFormer

MIN_ANY_SIZE = 128  # below it some bands are shorter than a group, and the numbers of groups become 1

__all__ = [
    "MIN_ANY_SIZE",
    "Exportable",
    "ExportableFeatures",
    "hold_significance",
    "num_maps",
    "record_significance",
]


def num_maps(model: nn.Module) -> int:
    """How many significance maps a model has, or whatever holds its blocks."""
    return sum(isinstance(module, SelfGuidedAttention) for module in model.modules())


class ExportableFeatures(nn.Module):
    """A copy of stem and stages that returns feature and significance maps, in operations that exporters take.

    With open sizes it serves 128x128 and more.

    Args:
        model: a model, or whatever holds its stem and stages, a `features_only` one for instance.
        topk: rank by `topk` over all tokens in place of a stable sort, which ONNX does not have.

    Raises:
        ValueError: if tokens are ranked by anything but significance.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, c, H, W)` of each stage, and `(B, H, W)` for each pair
    """

    def __init__(self, model: nn.Module, *, topk: bool = False) -> None:
        super().__init__()
        for module in model.modules():
            if isinstance(module, SelfGuidedAttention) and module.guidance != "significance":
                raise ValueError(
                    f"the model is guided by {module.guidance!r}, which is for comparisons; only 'significance' is "
                    "exported"
                )
        model = copy.deepcopy(model).eval()
        (self.stem,) = (module for module in model.modules() if isinstance(module, Stem))
        self.stages = nn.ModuleList(module for module in model.modules() if isinstance(module, Stage))
        self.rank = rank_by_topk if topk else rank_by_sort

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of the stages from fine to coarse, and what was found significant."""
        features: list[Tensor] = []
        maps: list[Tensor] = []
        x = self._stem(x)  # (B, c, H, W)
        for stage in self.stages:
            assert isinstance(stage, Stage)
            x = stage.downsample(x).permute(0, 2, 3, 1)
            for block in stage.blocks:
                y = block.norm1(x)  # pyright: ignore
                if isinstance(block, HybridScaleBlock):
                    y, significance = _hybrid_scale(block.attn, y)  # pyright: ignore
                    maps.append(significance)
                elif isinstance(block, SelfGuidedBlock):
                    y = self._self_guided(block.attn, y, maps[-1])  # pyright: ignore
                else:
                    assert isinstance(block, GlobalBlock)
                    y = _global(block.attn, y)  # pyright: ignore
                x = x + y
                x = x + block.mlp(block.norm2(x))  # pyright: ignore
            x = stage.norm(x).permute(0, 3, 1, 2)
            features.append(x)
        return features, maps

    def _stem(self, x: Tensor) -> Tensor:
        stem = self.stem
        x = F.gelu(stem.norm1(stem.conv1(x)))
        x = F.gelu(stem.norm2(stem.conv2(x)))
        x = stem.norm(stem.norm3(stem.conv3(x)).permute(0, 2, 3, 1))  # (B, H, W, c)
        grid = stem.pos_embed.unflatten(1, stem.grid_size).squeeze(0)  # (rows, columns, c)
        down = resize_matrix(stem.grid_size[0], x.shape[1], like=grid)
        right = resize_matrix(stem.grid_size[1], x.shape[2], like=grid)
        positions = right @ torch.tensordot(down, grid, 1)  # (H, W, c)
        return (x + positions).permute(0, 3, 1, 2)

    def _self_guided(self, attn: SelfGuidedAttention, x: Tensor, significance: Tensor) -> Tensor:
        B, H, W, c = x.shape
        N = H * W
        bands = cut_bands(N, attn.group_sizes)
        t = factor_for(bands, attn.token_budget)
        ranking = self.rank(significance)
        offset = torch.arange(B, device=x.device).unsqueeze(1) * N
        tokens = x.reshape(-1, c)  # (B * N, c)
        summary = []
        for (start, length, r), f in zip(bands, attn.merge, strict=True):
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
            summary.append(f(groups.transpose(2, 3)).squeeze(-1))  # (B, groups, c)
        kv = attn.kv(torch.cat(summary, 1))
        q, positional = attn.in_proj(x).chunk(2, -1)
        return attn.proj(_attend(q, kv, attn.num_heads) + attn.positional(positional))


class Exportable(nn.Module):
    """As `ExportableFeatures`, of a classifier: returns its logits and the significance maps.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, num_classes)`, and `(B, H, W)` for each pair
    """

    def __init__(self, model: SGFormer, *, topk: bool = False) -> None:
        super().__init__()
        self.features = ExportableFeatures(model, topk=topk)
        self.head = copy.deepcopy(model.head).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Classifies, and tells what it finds significant."""
        features, maps = self.features(x)
        return (self.head(features[-1]), *maps)


def factor_for(bands: list[Band], budget: int | None) -> Any:
    """As `group_factor`, also where the lengths of bands are symbols: a number that the file computes."""
    if budget is None or all(isinstance(band.length, int) for band in bands):
        return group_factor(bands, budget)
    return _as_size(count_factor(bands, budget))


def count_factor(bands: list[Band], budget: int) -> Tensor:
    """The number that `group_factor` searches, as a tensor without dimensions: one more than the factors that fail.

    The longer groups are, the fewer they are. So the factors that fail are all those below the answer.
    """
    most = sum(band.length // band.group_size + 1 for band in bands)  # with it each band is one group
    tried = torch.arange(1, most + 1)
    groups = torch.zeros_like(tried)
    for band in bands:
        members = band.group_size * tried
        groups = groups + (torch.full_like(tried, band.length) + members - 1) // members
    return (groups > budget).sum() + 1


def count_side(height: Any, width: Any, budget: int) -> Tensor:
    """The side of the cells that `pool_to_budget` searches, as a tensor without dimensions."""
    tried = torch.arange(1, height + width)
    rows, columns = ((torch.full_like(tried, length) + tried - 1) // tried for length in (height, width))
    return (rows * columns > budget).sum() + 1


def _as_size(number: Tensor) -> Any:
    """A computed number, at least 1, as the length of something."""
    size = number.item()
    torch._check(size >= 1)
    return size


def _pool(keys: Tensor, budget: int | None) -> tuple[Tensor, Any]:
    """As `pool_to_budget`, also for an open size."""
    h, w = keys.shape[1:3]
    if budget is None or (isinstance(h, int) and isinstance(w, int)):
        return pool_to_budget(keys, budget)
    side = count_side(h, w, budget)
    return pool_cells(keys, side), side


def pool_cells(keys: Tensor, side: Tensor) -> Tensor:
    """Averages a grid of keys `(B, h, w, c)` over cells whose side is computed, edge cells over what exists."""
    h, w = keys.shape[1:3]
    t = _as_size(side)
    rows, columns = (_cells(length, (length + t - 1) // t, side, like=keys) for length in (h, w))
    pooled = torch.einsum("ph,bhwc->bpwc", rows, keys)
    return torch.einsum("qw,bpwc->bpqc", columns, pooled)


def _cells(length: Any, cells: Any, side: Tensor, *, like: Tensor) -> Tensor:
    """The matrix `(cells, length)` that averages stretches of `side` places, the last over what exists."""
    belongs = torch.arange(length, device=like.device) // side == torch.arange(
        cells, device=like.device
    ).unsqueeze(1)
    belongs = belongs.to(like.dtype)
    return belongs / belongs.sum(1, keepdim=True)


def _global(attn: GlobalAttention, x: Tensor) -> Tensor:
    q, positional = attn.in_proj(x).chunk(2, -1)
    pooled, _ = _pool(x, attn.token_budget)
    return attn.proj(_attend(q, attn.kv(pooled.flatten(1, 2)), attn.num_heads) + attn.positional(positional))


def _attend(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """Attention of a map `(B, H, W, c)` to a list `(B, M, 2c)`, keys before values."""
    B, H, W, c = q.shape
    q = q.reshape(B, H * W, num_heads, c // num_heads).transpose(1, 2)  # (B, a, N, d)
    k, v = (
        kv.unflatten(-1, (2, num_heads, c // num_heads)).permute(2, 0, 3, 1, 4).unbind(0)
    )  # (B, a, M, d) each
    weights = _softmax(q @ k.mT * (c // num_heads) ** -0.5)
    return (weights.to(v.dtype) @ v).transpose(1, 2).reshape(B, H, W, c)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in float32 where the scores are in less."""
    return (scores.float() if scores.dtype.itemsize < 4 else scores).softmax(-1)


def _hybrid_scale(attn: HybridScaleAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    B, H, W, c = x.shape
    a, s, d = attn.num_heads_half, attn.stride, c // 2 // attn.num_heads_half
    q, qkv, positional = attn.in_proj(x).split((c // 2, 3 * c // 2, c), -1)

    patches = _cut(x, s).flatten(3)  # (B, h, w, s * s * c)
    weight = attn.coarse.weight.permute(0, 2, 3, 1).reshape(c, -1)
    coarse = F.gelu(attn.coarse_norm(F.linear(patches, weight, attn.coarse.bias)))
    coarse, t = _pool(coarse, attn.token_budget)
    h, w = coarse.shape[1:3]
    kv = attn.kv(coarse).flatten(1, 2).unflatten(-1, (2, a, d))  # (B, M, 2, a, d)
    k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, a, M, d) each
    q = q.reshape(B, H * W, a, d).transpose(1, 2)  # (B, a, N, d)
    weights = _softmax(q @ k.mT * d**-0.5)
    out_global = (weights.to(v.dtype) @ v).transpose(1, 2).reshape(B, H, W, c // 2)
    received = weights.mean((1, 2)).unflatten(-1, (h, w)) * (h * w)
    row = torch.arange(H, device=x.device) // (s * t)
    column = torch.arange(W, device=x.device) // (s * t)
    significance_global = received.index_select(1, row).index_select(2, column)

    windows = _cut(qkv, WINDOW_SIZE)  # (B, h, w, 49, 3c/2)
    exists = _cut(torch.ones_like(x[:1, :, :, :1]), WINDOW_SIZE)  # (1, h, w, 49, 1), 1 where there is a token
    q, k, v = (
        windows.unflatten(-1, (3, a, d)).permute(4, 0, 1, 2, 5, 3, 6).unbind(0)
    )  # (B, h, w, a, 49, d) each
    scores = q @ k.mT * d**-0.5
    scores = scores.masked_fill(exists.mT.unsqueeze(3) == 0, torch.finfo(scores.dtype).min)
    weights = _softmax(scores)
    out = (weights.to(v.dtype) @ v).transpose(3, 4).flatten(4)  # (B, h, w, 49, c/2)
    received = (weights * exists.unsqueeze(3)).sum(4).mean(3)  # (B, h, w, 49)
    out_local = _join(out, H, W)
    significance_local = _join(received.unsqueeze(-1), H, W).squeeze(-1)
    out = torch.cat((out_global, out_local), -1) + attn.positional(positional)
    return attn.proj(out), (significance_global + significance_local) / 2


def _cut(x: Tensor, size: int) -> Tensor:
    """Squares `(B, rows, columns, size * size, c)` of a map `(B, H, W, c)`, filled up with zeros at its edges."""
    _, H, W, _ = x.shape
    down, right = (H + size - 1) // size * size - H, (W + size - 1) // size * size - W
    x = F.pad(x, (0, 0, 0, right, 0, down))
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(3, 4)


def _join(squares: Tensor, height: Any, width: Any) -> Tensor:
    """The map `(B, height, width, c)` from which `_cut` made windows."""
    x = squares.unflatten(3, (WINDOW_SIZE, WINDOW_SIZE)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(1, row).index_select(2, column)


def resize_matrix(old: int, new: Any, *, like: Tensor) -> Tensor:
    """What PyTorch's bicubic resize of one side computes, as a matrix `(new, old)`."""
    a = -0.75
    dtype = torch.promote_types(like.dtype, torch.float32)
    where = (torch.arange(new, dtype=dtype, device=like.device) + 0.5) * (old / new) - 0.5
    first = where.floor()
    t = where - first
    near = [1 + t, t, 1 - t, 2 - t]
    weights = [
        ((a * n - 5 * a) * n + 8 * a) * n - 4 * a if far else ((a + 2) * n - (a + 3)) * n * n + 1
        for n, far in zip(near, (True, False, False, True), strict=True)
    ]
    column = torch.arange(old, dtype=dtype, device=like.device)
    places = [(first + k).clamp(0, old - 1) for k in (-1, 0, 1, 2)]
    taps = [
        (place.unsqueeze(1) == column).to(dtype) * weight.unsqueeze(1)
        for place, weight in zip(places, weights, strict=True)
    ]
    return (taps[0] + taps[1] + taps[2] + taps[3]).to(like.dtype)


def rank_by_sort(significance: Tensor) -> Tensor:
    """As `rank_tokens`."""
    return significance.flatten(1).argsort(dim=1, stable=True)


def rank_by_topk(significance: Tensor) -> Tensor:
    """As `rank_tokens` where nothing ties; ONNX has no stable sort, and its runtime breaks ties as that would."""
    flat = significance.flatten(1)
    return flat.topk(flat.shape[1], dim=1, largest=False, sorted=True).indices
