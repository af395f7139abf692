"""Blocks by the kernels in C++ (`ops/native`), in training on a CPU in float32: one operation of autograd a block.

Left to itself, autograd keeps what each of two dozen operations was given, takes joint projections apart and joins
their gradients again, and adds up those of residuals in passes of their own. Here a block keeps its input, what its
projections made and the map between attention and MLP. Norms are computed once more, which costs next to nothing, and
so are large hidden maps; each gradient goes to where the next product reads it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor

from ..backbone.attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
    keys_and_values,
    split_heads,
    spread,
)
from ..backbone.blocks import Block
from ..ops import cut_bands, group_factor, native, pool_keys, rank_tokens
from ..ops.first_order import first_order
from ..ops.pieces import few_images
from ..ops.pool_keys import cell_side
from .conditions import training_objection
from .fused import squares
from .native import block_objection, layers

# The hidden map of an MLP is kept up to so many numbers; larger ones are as soon computed as read from memory.
MAX_KEPT = 2**21
# Maps of up to so many tokens are written over by their gradients, which takes two thirds of the time where the hidden
# map of a batch outgrows the cache.
MAX_IN_PLACE = 1024

Weights = tuple[Tensor, Tensor]  # weight and bias of a layer
Gradients = Sequence[Tensor | None]  # the same


def why_not(block: Block, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence."""
    if reason := training_objection() or native.objection((x,), channels=x.shape[-1], gradient=True):
        return reason
    return block_objection(block, x, *significance) if x.dtype is torch.float32 else "it computes gradients in float32"


def block(block: Any, x: Tensor, *significance: Tensor) -> Any:
    """A block."""
    weights = [weight for layer in layers(block) for weight in (layer.weight, layer.bias)]
    return _Block.apply(block, x.contiguous(), significance[0] if significance else None, *weights)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Any, x: Tensor, significance: Tensor | None, *tensors: Tensor) -> Any:
        attn, c = block.attn, x.shape[-1]
        norm1, in_proj, kv_proj, positional, proj, *of_mlp = _pairs(tensors)
        of_mlp, others = of_mlp[:4], of_mlp[4:]
        ctx.block, ctx.budget = block, attn.token_budget  # the budget may be another when the gradient is computed
        # What attention and MLP add counts so much for each image; the layers draw it, as they always do.
        ctx.shares = [_share(layer, x) for layer in (block.drop_path1, block.drop_path2)]

        normed, _, _ = _norm(block.norm1, norm1, x)
        keys, of_keys = _KEYS[type(attn)].make(_Source(attn, ctx.budget, others, normed), significance)
        projected, kv = native.linear(normed, *in_proj), native.linear(keys, *kv_proj)
        found, measured = _attend(attn, projected, kv)
        found = native.depthwise_conv(projected[..., -c:], *positional, found, gelu=False)
        between = _add(x, found, proj, ctx.shares[0])
        out, hidden = torch.empty_like(x), None
        for part, to, share in _parts(block, (between, out), ctx.shares[1]):
            hidden = _hidden(block, of_mlp, part)
            _add(part, native.depthwise_conv(hidden, *of_mlp[2], hidden, gelu=True), of_mlp[3], share, to)
        kept = [] if hidden is None or hidden.numel() > MAX_KEPT or len(hidden) < len(x) else [hidden]
        ctx.save_for_backward(x, projected, keys, kv, found, between, *of_keys, *kept, *tensors)
        ctx.counts = len(of_keys), len(kept)
        if measured is None:
            return out
        ctx.mark_non_differentiable(measured)
        return out, measured

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, *_of_significance: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        block, attn, num_keys, num_kept = ctx.block, ctx.block.attn, *ctx.counts
        x, projected, keys, kv, found, between, *rest = ctx.saved_tensors
        of_keys, hidden, pairs = rest[:num_keys], rest[num_keys:][:num_kept], _pairs(rest[num_keys + num_kept :])
        norm1, in_proj, kv_proj, positional, proj, *of_mlp = pairs
        of_mlp, others = of_mlp[:4], of_mlp[4:]
        _, in_wanted, kv_wanted, _, proj_wanted, _, *mlp_wanted = _pairs(ctx.needs_input_grad[3:])
        c, grad = x.shape[-1], grad.contiguous()

        of_between = torch.empty_like(grad)
        parts = [
            _mlp_gradients(block, of_mlp, mlp_wanted, *part)
            for part in _parts(block, (grad, between, of_between, *hidden), ctx.shares[1])
        ]
        of_mlp = [[_sum(column) for column in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]

        added = of_between if ctx.shares[0] is None else of_between * ctx.shares[0]
        of_found, of_projected, of_kv = added @ proj[0], torch.empty_like(projected), torch.empty_like(kv)
        branch = projected[..., -c:], of_projected[..., -c:]
        _, _, *of_positional = native.depthwise_gradient(
            of_found, branch[0], *positional, residual=False, gelu=False, of_x=branch[1]
        )
        _attention_gradients(attn, of_found, projected, kv, of_projected, of_kv)
        normed, *moments = _norm(block.norm1, norm1, x)
        of_normed = of_projected @ in_proj[0]
        source = _Source(attn, ctx.budget, others, normed)
        of_others = _KEYS[type(attn)].gradients(source, of_kv @ kv_proj[0], of_normed, *of_keys)
        of_x, *of_norm1 = _norm_gradients(norm1, of_normed, x, moments)
        of_x += of_between

        of_in_proj = _linear_gradients(of_projected, normed, in_wanted)
        of_kv_proj, of_proj = _linear_gradients(of_kv, keys, kv_wanted), _linear_gradients(added, found, proj_wanted)
        found_gradients = [of_norm1, of_in_proj, of_kv_proj, of_positional, of_proj, *of_mlp, *of_others]
        return None, of_x, None, *(of_weight for layer in found_gradients for of_weight in layer)


def _pairs(tensors: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _share(layer: nn.Module, x: Tensor) -> Tensor | None:
    drops = isinstance(layer, DropPath) and layer.training and layer.drop_prob
    return layer(x.new_ones((len(x), 1, 1, 1))) if drops else None


# ------------------------------------------------------------------------------------------------------- layers


def _norm(norm: nn.LayerNorm, weights: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normed map, and mean and reciprocal deviation of each token."""
    return torch.native_layer_norm(x, norm.normalized_shape, *weights, norm.eps)


def _norm_gradients(weights: Weights, grad: Tensor, x: Tensor, moments: Sequence[Tensor]) -> list[Tensor]:
    return torch.ops.aten.native_layer_norm_backward(grad, x, x.shape[-1:], *moments, *weights, [True] * 3)


def _linear_gradients(grad: Tensor, x: Tensor, wanted: tuple[bool, bool]) -> Gradients:
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    return grad.t() @ x if wanted[0] else None, grad.sum(0) if wanted[1] else None


def _add(x: Tensor, made: Tensor, layer: Weights, share: Tensor | None, out: Tensor | None = None) -> Tensor:
    """A projection added to a map, to the share of each image."""
    if share is None:
        return native.linear(made, *layer, x, out=out)
    return torch.addcmul(x, native.linear(made, *layer), share, out=out)


# ---------------------------------------------------------------------------------------------------------- MLP


def _parts(block: Any, maps: Sequence[Tensor], share: Tensor | None) -> list[tuple[Any, ...]]:
    """Some images of the maps at a time, whose hidden maps the cache holds, and their share."""
    x = maps[0]
    at_once = few_images(x, x[..., 0].numel() * block.mlp.fc1.out_features) or len(x)
    shares = [None] * len(x) if share is None else share.split(at_once)
    return list(zip(*(y.split(at_once) for y in maps), shares, strict=False))


def _hidden(block: Any, of_mlp: Sequence[Weights], x: Tensor) -> Tensor:
    return native.linear(_norm(block.norm2, of_mlp[0], x)[0], *of_mlp[1])


def _mlp_gradients(
    block: Any, of_mlp: Sequence[Weights], wanted: Sequence[tuple[bool, bool]], *maps: Any
) -> list[Gradients]:
    """Gradients of norm, projection, convolution and projection; that of the map goes to the third of `maps`.

    They are the gradient of what comes out, what came in, a place for its gradient, the hidden map if it was kept, and
    the share.
    """
    grad, x, of_x, *hidden, share = maps
    norm, fc1, conv, fc2 = of_mlp
    normed, *moments = _norm(block.norm2, norm, x)
    wide = hidden[0] if hidden else native.linear(normed, *fc1)
    added = grad if share is None else grad * share
    of_made = added @ fc2[0]
    to = of_made if x.shape[1] * x.shape[2] <= MAX_IN_PLACE else None
    made, of_wide, *of_conv = native.depthwise_gradient(of_made, wide, *conv, residual=True, gelu=True, of_x=to)
    assert made is not None
    found, *of_norm = _norm_gradients(norm, of_wide @ fc1[0], x, moments)
    torch.add(grad, found, out=of_x)
    of_fc1, of_fc2 = _linear_gradients(of_wide, normed, wanted[0]), _linear_gradients(added, made, wanted[2])
    return [of_norm, of_fc1, of_conv, of_fc2]


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return functools.reduce(torch.add, given) if given else None


# ---------------------------------------------------------------------------------------------------- attention


def _attend(attn: Any, projected: Tensor, kv: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attend, by windows and to keys; gives what tokens find, and the significance where it is measured."""
    q, windows, heads = _queries(attn, projected)
    found = projected.new_empty((*q.shape[:3], q.shape[-1] if windows is None else 2 * q.shape[-1]))
    to = split_heads(found[..., : q.shape[-1]], heads)
    q, (k, v) = split_heads(q, heads), keys_and_values(kv, heads)
    if windows is None:
        native.attention(q, k, v, q.shape[-1] ** -0.5, to)
        return found, None
    key_mean = k.new_empty((len(k), k.shape[2]))
    native.attention(q, k, v, q.shape[-1] ** -0.5, to, key_mean)
    local = native.window_attention(windows, heads, WINDOW_SIZE, found[..., found.shape[-1] // 2 :])
    H, W = found.shape[1:3]
    side = attn.stride * cell_side(-(-H // attn.stride), -(-W // attn.stride), attn.token_budget)
    received = (key_mean * k.shape[2]).view(kv.shape[:3])
    return found, (spread(received, found, side) + local) / 2


def _queries(attn: Any, projected: Tensor) -> tuple[Tensor, Tensor | None, int]:
    """Queries of those heads that attend to keys, queries, keys and values within windows, and how many heads."""
    if not isinstance(attn, HybridScaleAttention):
        return projected[..., : projected.shape[-1] // 2], None, attn.num_heads
    half = projected.shape[-1] // 6
    return projected[..., :half], projected[..., half : 4 * half], attn.num_heads_half


def _attention_gradients(
    attn: Any, grad: Tensor, projected: Tensor, kv: Tensor, of_projected: Tensor, of_kv: Tensor
) -> None:
    """Writes gradients of what tokens find to those of projections."""
    (q, windows, heads), (of_q, of_windows, _) = _queries(attn, projected), _queries(attn, of_projected)
    width = q.shape[-1]
    q, of_q, of_found = (split_heads(y, heads) for y in (q, of_q, grad[..., :width]))
    places = of_q, *keys_and_values(of_kv, heads)
    native.attention_gradient(of_found, q, *keys_and_values(kv, heads), q.shape[-1] ** -0.5, places)
    if windows is not None:
        native.window_gradient(grad[..., width:], windows, heads, WINDOW_SIZE, of_windows)


# --------------------------------------------------------------------------------------------------------- keys


# How each attention makes its keys. `make` takes the significance, too, and gives keys and what to keep of the way
# there. `gradients` takes the gradients of the keys and of the normed map, to which it adds, and what was kept; it
# gives those of the weights.


class _Source(NamedTuple):
    """Inputs that keys are made from."""

    attn: Any
    budget: int | None  # of the forward pass
    others: Sequence[Weights]  # the layers between the normed map and the keys
    normed: Tensor  # (B, H, W, c)


class _Coarse:
    """A convolution without overlap, norm and GELU; keeps what the convolution makes."""

    @staticmethod
    def make(source: _Source, _: Any) -> tuple[Tensor, list[Tensor]]:
        attn, budget, ((weight, bias), norm), normed = source
        coarse = native.linear(squares(attn.stride, normed), weight.permute(0, 2, 3, 1).flatten(1), bias)
        keys, _ = pool_keys(F.gelu(_norm(attn.coarse_norm, norm, coarse)[0]), budget)
        return keys.contiguous(), [coarse]

    @staticmethod
    def gradients(source: _Source, grad: Tensor, of_normed: Tensor, coarse: Tensor) -> list[Gradients]:
        attn, budget, ((weight, _), norm), normed = source
        after, *moments = _norm(attn.coarse_norm, norm, coarse)
        of_after = torch.ops.aten.gelu_backward(_pool_gradient(grad, after, budget), after)
        of_coarse, *of_norm = _norm_gradients(norm, of_after, coarse, moments)
        s, (B, H, W, c), (_, h, w, _) = attn.stride, normed.shape, coarse.shape
        of_squares = of_coarse @ weight.permute(0, 2, 3, 1).flatten(1)
        of_squares = of_squares.view(B, h, w, s, s, c).transpose(2, 3).reshape(B, h * s, w * s, c)
        of_normed += of_squares[:, :H, :W]
        of_weight, of_bias = _linear_gradients(of_coarse, squares(s, normed), (True, True))
        assert of_weight is not None
        return [(of_weight.view(-1, s, s, c).permute(0, 3, 1, 2).contiguous(), of_bias), of_norm]


class _Merged:
    """Tokens merged by their ranking, which is kept."""

    @staticmethod
    def make(source: _Source, significance: Tensor) -> tuple[Tensor, list[Tensor]]:
        ranking = rank_tokens(significance).contiguous()
        bands, factor = _bands(source)
        weights, biases = zip(*source.others, strict=True)
        length = sum(band.num_groups(factor) for band in bands)
        tokens = source.normed.flatten(1, 2)
        return native.merge_tokens(tokens, ranking, weights, biases, bands, length, factor), [ranking]

    @staticmethod
    def gradients(source: _Source, grad: Tensor, of_normed: Tensor, ranking: Tensor) -> list[Gradients]:
        weights = [weight for weight, _ in source.others]
        tokens, of_tokens = source.normed.flatten(1, 2), of_normed.flatten(1, 2)
        found = native.merge_gradient_(of_tokens, grad, tokens, ranking, weights, *_bands(source))
        return list(zip(*found, strict=True))


def _bands(source: _Source) -> tuple[list[Any], int]:
    """The bands of the ranking, and the factor by which the budget lets their groups grow."""
    bands = cut_bands(source.normed.shape[1] * source.normed.shape[2], source.attn.group_sizes)
    return bands, group_factor(bands, source.budget)


class _Pooled:
    """All tokens, or their means over cells."""

    @staticmethod
    def make(source: _Source, _: Any) -> tuple[Tensor, list[Tensor]]:
        return pool_keys(source.normed, source.budget)[0].contiguous(), []

    @staticmethod
    def gradients(source: _Source, grad: Tensor, of_normed: Tensor) -> list[Gradients]:
        of_normed += _pool_gradient(grad, source.normed, source.budget)
        return []


def _pool_gradient(grad: Tensor, x: Tensor, budget: int | None) -> Tensor:
    """The gradient of `x` from that of `pool_keys(x, budget)`."""
    side = cell_side(x.shape[1], x.shape[2], budget)
    if side == 1:
        return grad.view(x.shape)
    x, grad = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    cells = [side] * 2, [side] * 2, [0, 0], True, False, None
    return torch.ops.aten.avg_pool2d_backward(grad, x, *cells).permute(0, 2, 3, 1).contiguous()


_KEYS: dict[type, Any] = {HybridScaleAttention: _Coarse, SelfGuidedAttention: _Merged, GlobalAttention: _Pooled}
