"""`window_attention` in a Triton kernel a direction: a program takes one window, from the map and into the map.

A window's weights fit on the chip, so nothing but queries, keys, values and the result is read or written, and no
window is ever copied. Windows share no token: no program adds to what another wrote.
"""

# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# (kernels are started by an index, and their language is not quite Python.)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import tiles
from ..tiles import dot, jit, padded, softmax, tl

MAX_CHANNELS = 128
MAX_WINDOW = 64
LOG2_E = 1.4426950408889634


def why_not(qkv: Tensor, num_heads: int, size: int) -> str | None:
    """None, or a sentence: no Triton, no GPU, or inputs that the kernels do not know."""
    if reason := tiles.why_not((qkv,)):
        return reason
    if size * size > MAX_WINDOW:
        return f"a window has {size * size} tokens, more than {MAX_WINDOW}"
    if qkv.shape[-1] // (3 * num_heads) > MAX_CHANNELS:
        return f"a head has {qkv.shape[-1] // (3 * num_heads)} channels, more than {MAX_CHANNELS}"
    return None


why_slow = tiles.why_slow


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` with the Triton kernels of this file."""
    out, significance = _apply(qkv, num_heads, size)
    return out, significance.detach()


@jit
def _places(window, rows, columns, H, W, SIZE: tl.constexpr, T: tl.constexpr):
    """Image, row and column of the tokens of a window, and which of them exist."""
    token = tl.arange(0, T)
    row = window // columns % rows * SIZE + token // SIZE
    column = window % columns * SIZE + token % SIZE
    exists = (token < SIZE * SIZE) & (row < H) & (column < W)
    return (window // (rows * columns)).to(tl.int64), row, column, exists


@jit
def _tile(pointer, at, exists, first, d: tl.constexpr, D: tl.constexpr):
    """Channels from `first` on of the tokens of a window; zeros where there is none."""
    channels = tl.arange(0, D)
    mask = exists[:, None] & (channels < d)[None, :]
    return tl.load(pointer + at[:, None] + first + channels[None, :], mask=mask, other=0.0)


@jit
def _put(pointer, at, exists, first, values, d: tl.constexpr, D: tl.constexpr):
    channels = tl.arange(0, D)
    mask = exists[:, None] & (channels < d)[None, :]
    tl.store(pointer + at[:, None] + first + channels[None, :], values.to(pointer.dtype.element_ty), mask=mask)


@jit
def _weights(q, k, exists, scale_log2, INTERPRET: tl.constexpr, PRECISION: tl.constexpr):
    scores = dot(q, tl.trans(k), INTERPRET, PRECISION) * scale_log2
    weights, _ = softmax(scores + tl.where(exists, 0.0, float("-inf"))[None, :], exists)
    return weights


@jit
def _forward_kernel(
    qkv, out, received, scale_log2, a, rows, columns, H, W, x_b, x_h, x_w,
    d: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, T: tl.constexpr,
    INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image, row, column, exists = _places(tl.program_id(0), rows, columns, H, W, SIZE, T)
    head = tl.program_id(1)
    at = image * x_b + row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
    place = (image * H + row) * W + column
    c = a * d
    q = _tile(qkv, at, exists, head * d, d, D)
    k = _tile(qkv, at, exists, c + head * d, d, D)
    v = _tile(qkv, at, exists, 2 * c + head * d, d, D)
    weights = _weights(q, k, exists, scale_log2, INTERPRET, PRECISION)
    _put(out, place * c, exists, head * d, dot(weights.to(v.dtype), v, INTERPRET, PRECISION), d, D)
    # The mean over queries, times the number of tokens, which is that of queries.
    tl.store(received + place * a + head, tl.sum(weights, 0), mask=exists)


@jit
def _backward_kernel(
    qkv, grad, grad_qkv, scale, scale_log2, a, rows, columns, H, W, x_b, x_h, x_w, g_b, g_h, g_w,
    d: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, T: tl.constexpr,
    INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    image, row, column, exists = _places(tl.program_id(0), rows, columns, H, W, SIZE, T)
    head = tl.program_id(1)
    c = a * d
    at = image * x_b + row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
    q = _tile(qkv, at, exists, head * d, d, D)
    k = _tile(qkv, at, exists, c + head * d, d, D)
    v = _tile(qkv, at, exists, 2 * c + head * d, d, D)
    g = _tile(grad, image * g_b + row.to(tl.int64) * g_h + column.to(tl.int64) * g_w, exists, head * d, d, D)
    weights = _weights(q, k, exists, scale_log2, INTERPRET, PRECISION)
    of_values = dot(tl.trans(weights.to(g.dtype)), g, INTERPRET, PRECISION)
    grad_weights = dot(g, tl.trans(v), INTERPRET, PRECISION)
    # Softmax: dS = P * (dP - sum(P * dP)).
    delta = tl.sum(weights * grad_weights, 1)
    grad_scores = (weights * (grad_weights - delta[:, None]) * scale).to(q.dtype)
    place = ((image * H + row) * W + column) * (3 * c)
    _put(grad_qkv, place, exists, head * d, dot(grad_scores, k, INTERPRET, PRECISION), d, D)
    of_keys = dot(tl.trans(grad_scores), q, INTERPRET, PRECISION)
    _put(grad_qkv, place, exists, c + head * d, of_keys, d, D)
    _put(grad_qkv, place, exists, 2 * c + head * d, of_values, d, D)


def _options(qkv: Tensor, num_heads: int, size: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Heads, windows down and across, height and width; and the constants."""
    _, H, W, channels = qkv.shape
    d = channels // (3 * num_heads)
    shape = {"d": d, "D": padded(d), "SIZE": size, "T": padded(size * size)}
    return (num_heads, -(-H // size), -(-W // size), H, W), {**shape, **tiles.constants()}


def _forward(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    B, H, W, channels = qkv.shape
    qkv = tiles.dense(qkv)
    numbers, constants = _options(qkv, num_heads, size)
    out = qkv.new_empty((B, H, W, channels // 3))
    received = qkv.new_empty((B, H, W, num_heads), dtype=torch.float32)
    scale = constants["d"] ** -0.5
    grid = (B * numbers[1] * numbers[2], num_heads)
    strides = qkv.stride()[:3]
    _forward_kernel[grid](qkv, out, received, scale * LOG2_E, *numbers, *strides, **constants)
    return out, received.mean(-1)


def _fake(qkv, num_heads, size):
    B, H, W, channels = qkv.shape
    out = qkv.new_empty((B, H, W, channels // 3))
    return out, qkv.new_empty((B, H, W), dtype=torch.float32)


def _backward(grad: Tensor, qkv: Tensor, num_heads: int, size: int) -> Tensor:
    qkv, grad = tiles.dense(qkv), tiles.dense(grad.to(qkv.dtype))
    numbers, constants = _options(qkv, num_heads, size)
    grad_qkv = qkv.new_empty(qkv.shape)
    scale = constants["d"] ** -0.5
    grid = (len(qkv) * numbers[1] * numbers[2], num_heads)
    strides = (*qkv.stride()[:3], *grad.stride()[:3])
    _backward_kernel[grid](qkv, grad, grad_qkv, scale, scale * LOG2_E, *numbers, *strides, **constants)
    return grad_qkv


def _fake_backward(grad, qkv, num_heads, size):
    return qkv.new_empty(qkv.shape)


def _keep(ctx, inputs, output):
    qkv, ctx.num_heads, ctx.size = inputs
    ctx.save_for_backward(qkv)
    ctx.mark_non_differentiable(output[1])


def _differentiate(backward, ctx, grad, _grad_of_significance):
    return backward(grad, *ctx.saved_tensors, ctx.num_heads, ctx.size), None, None


_apply = tiles.operator(
    "window_attention_triton", _forward, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate
)


@register_flop_formula(torch.ops.sgformer.window_attention_triton)
def _count_flops(qkv_shape, num_heads, size, *args, **kwargs) -> int:
    B, H, W, channels = qkv_shape
    windows = B * -(-H // size) * -(-W // size)
    return 2 * 2 * windows * size**4 * (channels // 3)  # two products, a multiplication and an addition each
