"""`map_norm` in Triton kernels for GPUs, which share a map out among many programs and compute GELU on the way.

What GELU takes is computed once more in the backward pass. Programs leave sums apart, so that results do not depend on
which is the first.
"""

# pyright: reportIndexIssue=false
# (kernels are started by an index.)

import math
from typing import Any

import torch
from torch import Tensor

from .. import tiles
from . import kernels

MAX_CHANNELS = 2048
# Numbers whose mean and variance a program takes; numbers in a tile where channels count, forward and backward.
STRETCH = 8192
TILE = 4096
GRADIENT_TILE = 1024
# How many tiles a program takes where it adds up, and how many programs there should be.
MAX_STEPS = 16
MIN_PROGRAMS = 1024


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> str | None:
    """None, or a sentence: no Triton, no GPU, or inputs that the kernels do not know."""
    if reason := tiles.why_not((x, weight, bias)):
        return reason
    if x.shape[-1] > MAX_CHANNELS:
        return f"a token has {x.shape[-1]} channels, more than {MAX_CHANNELS}"
    if math.prod(x.shape[1:]) >= 2**31 - STRETCH:
        return "a map has more numbers than 32 bits count"
    return None


why_slow = tiles.why_slow


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    """Compute `reference.normalize` with the Triton kernels of this file."""
    return _apply(x, weight, bias, eps, gelu)[0]


def _options(x: Tensor, gelu: bool, tile: int) -> tuple[tuple[int, int], dict[str, Any]]:
    """Tokens and channels of a map; and the constants."""
    _, H, W, C = x.shape
    channels = tiles.padded(C, least=1)
    sides = {"BLOCK_P": max(1, tile // channels), "BLOCK_C": channels, "num_warps": 4}
    return (H * W, C), {"GELU": gelu, "EXACT": x.dtype is torch.float32, **sides}


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    (P, C), constants = _options(x, gelu, TILE)
    B, L = len(x), P * C
    blocks = -(-L // STRETCH)
    partial = x.new_empty((B, blocks, 2), dtype=torch.float32)
    kernels.measure_kernel[blocks, B](x, partial, L, blocks, BLOCK=STRETCH, num_warps=8)
    statistics = x.new_empty((B, 2), dtype=torch.float32)
    kernels.finish_kernel[(B,)](partial, statistics, L, blocks, eps, BLOCK=1024, STRETCH=STRETCH)
    out = x.new_empty(x.shape)
    kernels.normalize_kernel[-(-P // constants["BLOCK_P"]), B](
        x, statistics, weight.contiguous(), bias.contiguous(), out, P, C, **constants
    )
    return out, statistics


def _fake(x, weight, bias, eps, gelu):
    return x.new_empty(x.shape), x.new_empty((len(x), 2), dtype=torch.float32)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, gelu: bool, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, grad = x.contiguous(), grad.to(x.dtype).contiguous()
    (P, C), constants = _options(x, gelu, GRADIENT_TILE)
    tiles_of_map = -(-P // constants["BLOCK_P"])
    steps = min(MAX_STEPS, max(1, tiles_of_map * len(x) // MIN_PROGRAMS))
    blocks = -(-tiles_of_map // steps)
    partial = x.new_empty((len(x), blocks, 2, C), dtype=torch.float32)
    tensors = (x, grad, statistics, weight.contiguous(), bias.contiguous())
    kernels.sum_kernel[blocks, len(x)](*tensors, partial, P, C, blocks, steps, **constants)
    sums = partial.sum(1)  # (B, 2, C)
    grad_x = x.new_empty(x.shape if of_x else 0)
    if of_x:
        means = (sums * weight.float()).sum(-1) / (P * C)  # (B, 2)
        kernels.gradient_kernel[tiles_of_map, len(x)](*tensors, means, grad_x, P, C, **constants)
    of_weight, of_bias = sums.sum(0).to(weight.dtype)
    return grad_x, of_weight.clone(), of_bias.clone()


def _fake_backward(grad, x, weight, bias, statistics, gelu, of_x):
    grad_x = x.new_empty(x.shape if of_x else 0)
    return grad_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _keep(ctx, inputs, output):
    x, weight, bias, _, ctx.gelu = inputs
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(backward, ctx, grad, _grad_of_statistics):
    of_x = ctx.needs_input_grad[0]
    grad_x, *of_parameters = backward(grad, *ctx.saved_tensors, ctx.gelu, of_x)
    return grad_x if of_x else None, *of_parameters, None, None


_apply = tiles.operator(
    "map_norm_triton", _forward, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate
)
