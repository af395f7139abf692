"""`depthwise_conv` in Triton kernels for GPUs: one pass over the map forward, two backward.

What the convolution makes before GELU is computed once more in the backward pass, in the same go in which the gradient
of the kernel is added up. Programs leave their sums apart, so that results do not depend on which is the first.
"""

# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# (kernels are started by an index, and their language is not quite Python.)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import tiles
from ..tiles import jit, tl

# Places and channels of a tile.
BLOCK_PLACES = 64
BLOCK_CHANNELS = 64
# How many tiles a program takes where it adds up the gradient of the kernel, and how many programs there should be.
MAX_STEPS = 32
MIN_PROGRAMS = 1024


def why_not(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence: no Triton, no GPU, or a precision that kernels do not have."""
    return tiles.why_not((x, weight, bias))


def why_slow(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence: interpreted kernels are for tests only."""
    return tiles.why_slow(x)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """The same numbers as `reference.convolve`, from the kernels of this file.

    Shape:
        - x, returns: `(B, H, W, c)`; weight: `(c, 1, 3, 3)`; bias: `(c,)`
    """
    return _forward(x, weight, bias, residual, gelu)


@jit
def _places(block, P, H, W, BLOCK_P: tl.constexpr, WIDE: tl.constexpr):
    """A stretch of the places of all maps: their numbers, which exist, and image, row and column of each."""
    place = block * BLOCK_P + tl.arange(0, BLOCK_P)
    image, row, column = place // (H * W), place // W % H, place % W
    if WIDE:  # offsets that 32 bits do not hold
        place, image, row, column = (
            place.to(tl.int64),
            image.to(tl.int64),
            row.to(tl.int64),
            column.to(tl.int64),
        )
    return place, place < P, image, row, column


@jit
def _near(x, at, row, column, is_place, is_channel, i, j, H, W, x_h, x_w):
    """The tile `(places, channels)` of neighbours `i - 1` rows below and `j - 1` columns right; zeros outside."""
    y, z = row + (i - 1), column + (j - 1)
    exists = is_place & (y >= 0) & (y < H) & (z >= 0) & (z < W)
    pointer = x + ((i - 1) * x_h + (j - 1) * x_w)
    return tl.load(pointer + at, mask=exists[:, None] & is_channel, other=0.0).to(tl.float32)


@jit
def _sum(
    x, weight, bias, at, row, column, channels, is_place, is_channel, H, W, C, x_h, x_w,
    FLIP: tl.constexpr, RESIDUAL: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What the convolution makes of a tile, in float32."""
    result = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for i in range(3):  # not unrolled: nine tiles at once are too many for the registers
        for j in tl.static_range(3):
            tile = _near(x, at, row, column, is_place, is_channel, i, j, H, W, x_h, x_w)
            tap = i * 3 + j
            tap = 8 - tap if FLIP else tap
            kernel = tl.load(weight + channels * 9 + tap, mask=channels < C, other=0.0).to(tl.float32)
            if RESIDUAL and j == 1:
                kernel += tl.where(i == 1, 1.0, 0.0)
            result += tile * kernel[None, :]
    if HAS_BIAS:
        result += tl.load(bias + channels, mask=channels < C, other=0.0).to(tl.float32)[None, :]
    return result


@jit
def _convolve_kernel(
    x, weight, bias, out, P, H, W, C, x_b, x_h, x_w,
    FLIP: tl.constexpr, RESIDUAL: tl.constexpr, HAS_BIAS: tl.constexpr, GELU: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    place, is_place, image, row, column = _places(tl.program_id(0), P, H, W, BLOCK_P, WIDE)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = (channels < C)[None, :]
    at = (image * x_b + row * x_h + column * x_w)[:, None] + channels[None, :]
    result = _sum(
        x, weight, bias, at, row, column, channels, is_place, is_channel, H, W, C, x_h, x_w,
        FLIP, RESIDUAL, HAS_BIAS, BLOCK_P, BLOCK_C,
    )  # fmt: skip
    if GELU:
        result = 0.5 * result * (1.0 + tl.erf(result * 0.7071067811865476))
    to = place[:, None] * C + channels[None, :]
    tl.store(out + to, result.to(out.dtype.element_ty), mask=is_place[:, None] & is_channel)


@jit
def _gradient_kernel(
    x, weight, bias, grad, grad_sum, partial, P, H, W, C, steps, x_b, x_h, x_w, g_b, g_h, g_w,
    RESIDUAL: tl.constexpr, GELU: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient before GELU, and what it says of the kernel (rows 0 to 8 of a sum) and of the bias (row 9)."""
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = (channels < C)[None, :]
    taps = tl.arange(0, 16)
    total = tl.zeros((16, BLOCK_C), tl.float32)
    for step in range(steps):
        place, is_place, image, row, column = _places(tl.program_id(0) * steps + step, P, H, W, BLOCK_P, WIDE)
        at = (image * x_b + row * x_h + column * x_w)[:, None] + channels[None, :]
        mask = is_place[:, None] & is_channel
        of_grad = (image * g_b + row * g_h + column * g_w)[:, None] + channels[None, :]
        g = tl.load(grad + of_grad, mask=mask, other=0.0).to(tl.float32)
        if GELU:
            y = _sum(
                x, weight, bias, at, row, column, channels, is_place, is_channel, H, W, C, x_h, x_w,
                False, RESIDUAL, True, BLOCK_P, BLOCK_C,
            )  # fmt: skip
            density = 0.3989422804014327 * tl.exp(-0.5 * y * y)
            g *= 0.5 * (1.0 + tl.erf(y * 0.7071067811865476)) + y * density
            to = place[:, None] * C + channels[None, :]
            tl.store(grad_sum + to, g.to(grad_sum.dtype.element_ty), mask=mask)
        for i in range(3):
            for j in tl.static_range(3):
                tile = _near(x, at, row, column, is_place, is_channel, i, j, H, W, x_h, x_w)
                received = tl.sum(tile * g, 0)[None, :]
                total += tl.where(taps[:, None] == i * 3 + j, received, 0.0)
        total += tl.where(taps[:, None] == 9, tl.sum(g, 0)[None, :], 0.0)
    to = partial + (tl.program_id(0) * 16 + taps)[:, None] * C + channels[None, :]
    tl.store(to, total, mask=is_channel & (taps < 10)[:, None])


def _dense(x: Tensor) -> Tensor:
    """The map itself if the channels of a token are neighbours, else a copy in which they are."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _numbers(x: Tensor) -> tuple[int, ...]:
    """Places of all maps, height, width, channels."""
    B, H, W, C = x.shape
    return B * H * W, H, W, C


def _tiling(x: Tensor) -> dict[str, Any]:
    """Sides of a tile, and whether offsets need 64 bits."""
    wide = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) >= 2**31 - 2**20
    channels = min(BLOCK_CHANNELS, tiles.padded(x.shape[-1]))
    return {"BLOCK_P": BLOCK_PLACES, "BLOCK_C": channels, "WIDE": wide, "num_warps": 4, "num_stages": 1}


@torch.library.custom_op("sgformer::depthwise_conv_triton", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    return _convolve(_dense(x), weight, bias, residual=residual, gelu=gelu)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, residual: bool, gelu: bool = False, flip: bool = False
) -> Tensor:
    """The convolution; `flip` for the gradient of its input."""
    out = x.new_empty(x.shape)
    numbers, tiling = _numbers(x), _tiling(x)
    grid = (-(-numbers[0] // tiling["BLOCK_P"]), -(-x.shape[-1] // tiling["BLOCK_C"]))
    _convolve_kernel[grid](
        *(x, weight.contiguous(), weight if bias is None else bias.contiguous(), out),
        *(*numbers, *x.stride()[:3]),
        FLIP=flip,
        RESIDUAL=residual,
        HAS_BIAS=bias is not None,
        GELU=gelu,
        **tiling,
    )
    return out


@_forward.register_fake
def _(x, weight, bias, residual, gelu):
    return x.new_empty(x.shape)


@torch.library.custom_op("sgformer::depthwise_conv_triton_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, grad = _dense(x), _dense(grad.to(x.dtype))
    numbers, tiling = _numbers(x), _tiling(x)
    C = x.shape[-1]
    blocks, across = -(-numbers[0] // tiling["BLOCK_P"]), -(-C // tiling["BLOCK_C"])
    steps = min(MAX_STEPS, max(1, blocks * across // MIN_PROGRAMS))
    programs = -(-blocks // steps)
    grad_sum = x.new_empty(x.shape) if gelu else grad
    partial = x.new_empty((programs, 16, C), dtype=torch.float32)
    _gradient_kernel[programs, across](
        *(x, weight.contiguous(), bias.contiguous(), grad, grad_sum, partial),
        *(*numbers, steps, *x.stride()[:3], *grad.stride()[:3]),
        RESIDUAL=residual,
        GELU=gelu,
        **tiling,
    )
    total = partial[:, :10].sum(0)  # (10, C)
    grad_weight = total[:9].t().contiguous().view(weight.shape).to(weight.dtype)
    grad_x = _convolve(grad_sum, weight, None, residual=residual, flip=True)
    return grad_x, grad_weight, total[9].clone().to(bias.dtype)


@_backward.register_fake
def _(grad, x, weight, bias, residual, gelu):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.residual, ctx.gelu = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx, grad):
    return (*_backward(grad, *ctx.saved_tensors, ctx.residual, ctx.gelu), None, None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)
