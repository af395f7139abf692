"""`key_mean_attention` in Triton kernels for GPUs, forward and backward; no weight ever leaves the chip.

Where all keys of a head fit into one tile, which is so wherever a budget bounds them, a program has whole rows of
weights: it computes them once, and adds their columns up to the key means on the way. Where there are more, it goes
over the keys twice: for the output and the logarithm of each query's sum of exponentials, with the running maximum of
flash attention; then, with these logarithms known, for the weights themselves. What programs add up, each leaves apart
to be summed at the end, so that results do not depend on which program is the first.
"""

# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# (kernels are started by an index, and their language is not quite Python.)

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import tiles
from ..by_heads import new_output
from ..tiles import padded
from . import kernels
from .reference import count_flops, num_queries

MAX_CHANNELS = 128
MAX_LISTS = 65535  # of the second dimension of a grid, in CUDA
# Queries of a tile; and how many tiles of them a program takes in the backward pass where all keys fit into one.
BLOCK_QUERIES = 64
MAX_STEPS = 4
MIN_PROGRAMS = 1024
# Keys of a tile; the most keys that one tile may hold, forward and where it holds gradients as well.
BLOCK_KEYS = 64
MAX_WHOLE_KEYS = 256
MAX_WHOLE_GRADIENT_KEYS = 128
# Queries of a program for the gradients of keys and values, where these do not fit into one tile.
QUERIES_PER_PROGRAM = 1024
LOG2_E = 1.4426950408889634


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: no Triton, no GPU, or inputs that the kernels do not know."""
    if reason := tiles.why_not((q, k, v)):
        return reason
    if q.shape[3] > MAX_CHANNELS:
        return f"a head has {q.shape[3]} channels, more than {MAX_CHANNELS}"
    if q.shape[0] * q.shape[1] > MAX_LISTS:
        return f"there are {q.shape[0] * q.shape[1]:,} lists of queries, more than CUDA's {MAX_LISTS:,}"
    return None


why_slow = tiles.why_slow


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` with the Triton kernels of this file."""
    out, _, key_sum = _apply(q, k, v, scale, mask)
    return out, key_sum.detach() / num_queries(q, mask)


def _options(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int], dict[str, Any]]:
    """Return what all kernels take: a mask to point at, strides of q, k, v and the mask, and the constants."""
    strides = [*q.stride(), *k.stride(), *v.stride()]
    if mask is None:
        strides += [0, 0, 0, 0]
    else:  # a dimension of 1 is broadcast: its stride counts nothing
        strides += [0 if n == 1 else step for n, step in zip(mask.shape, mask.stride(), strict=True)]
    constants = {"d": q.shape[3], "D": padded(q.shape[3]), "HAS_MASK": mask is not None, **tiles.constants()}
    return q if mask is None else mask.view(torch.uint8), strides, constants


def _fits(k: Tensor, most: int) -> bool:
    """Whether all keys of a head fit into one tile, of `most` keys at most."""
    return k.shape[2] <= most and padded(k.shape[2]) * padded(k.shape[3]) <= most * 64


def _steps(num_tiles: int, num_heads: int) -> int:
    """Choose how many tiles of queries a program takes: several, but leave the GPU enough programs."""
    steps = 1
    while steps < MAX_STEPS and num_tiles * num_heads >= 2 * steps * MIN_PROGRAMS:
        steps *= 2
    return steps


def _tiling(q: Tensor, k: Tensor, *, whole: bool, gradient: bool = False) -> tuple[dict[str, int], int]:
    """Sides of tiles and warps of a program, and the number of programs that share a head's queries."""
    B, a, N, _ = q.shape
    keys = padded(k.shape[2]) if whole else BLOCK_KEYS
    queries = 2 * BLOCK_QUERIES if keys <= 64 and whole and not gradient else BLOCK_QUERIES
    # A sum over several tiles takes registers: too many of them where there are many keys.
    steps = _steps(-(-N // queries), B * a) if keys <= 64 and whole and gradient else 1
    tiling = {"BLOCK_N": queries, "BLOCK_M": keys, "STEPS": steps, "num_warps": 4}
    return tiling, -(-N // (queries * steps))


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    B, a, N, _ = q.shape
    M = k.shape[2]
    whole, keep = _fits(k, MAX_WHOLE_KEYS), not _fits(k, MAX_WHOLE_GRADIENT_KEYS)
    tiling, blocks = _tiling(q, k, whole=whole)
    out = new_output(q)
    log_sum = q.new_empty((B, a, N if keep else 0), dtype=torch.float32)
    key_sum = q.new_empty((B, a * blocks, M), dtype=torch.float32)
    pointer, strides, constants = _options(q, k, v, mask)
    tensors = q, k, v, pointer, out, log_sum, key_sum
    numbers = scale * LOG2_E, a, N, M, blocks, *strides, *out.stride()[:3]
    constants |= {"WHOLE": whole, "KEEP": keep, **tiling}
    kernels.forward_kernel[blocks, B * a](*tensors, *numbers, **constants)
    return out, log_sum, key_sum.sum(1)


def _fake(q, k, v, scale, mask):
    B, a, N, _ = q.shape
    log_sum = q.new_empty((B, a, 0 if _fits(k, MAX_WHOLE_GRADIENT_KEYS) else N), dtype=torch.float32)
    return new_output(q), log_sum, q.new_empty((B, k.shape[2]), dtype=torch.float32)


def _backward(
    grad: Tensor,
    out: Tensor | None,
    log_sum: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
    of_q: bool,
    of_keys: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    B, a, N, _ = q.shape
    M, d = k.shape[2:]
    grad = grad.to(q.dtype)
    grad_q = new_output(q)
    pointer, strides, constants = _options(q, k, v, mask)
    strides += grad.stride()
    whole = out is None or log_sum is None
    tiling, blocks = _tiling(q, k, whole=whole, gradient=True)
    if not whole:
        blocks = -(-N // QUERIES_PER_PROGRAM)
    grad_k, grad_v = (k.new_empty((B, a, blocks, M, d), dtype=torch.float32) for _ in range(2))
    numbers = (scale, scale * LOG2_E, a, N, M)
    if out is None or log_sum is None:
        tensors = q, k, v, pointer, grad, grad_q, grad_k, grad_v
        kernels.whole_gradient_kernel[blocks, B * a](
            *tensors, *numbers, blocks, *strides, *grad_q.stride()[:3], **tiling, **constants
        )
    else:
        delta = (grad.float() * out.float()).sum(-1).contiguous()
        del tiling["STEPS"]
        tensors = q, k, v, pointer, grad, log_sum, delta
        if of_q:
            grid = (-(-N // tiling["BLOCK_N"]), B * a)
            kernels.query_gradient_kernel[grid](
                *tensors, grad_q, *numbers, *strides, *grad_q.stride()[:3], **tiling, **constants
            )
        if of_keys:
            grid = (-(-M // tiling["BLOCK_M"]), B * a, blocks)
            constants |= {"ROWS": QUERIES_PER_PROGRAM, **tiling}
            kernels.key_gradient_kernel[grid](*tensors, grad_k, grad_v, *numbers, blocks, *strides, **constants)
    if not of_keys:
        return grad_q, k.new_empty(0), v.new_empty(0)
    return grad_q, grad_k.sum(2).to(k.dtype), grad_v.sum(2).to(v.dtype)


def _fake_backward(grad, out, log_sum, q, k, v, scale, mask, of_q, of_keys):
    shapes = (k.shape, v.shape) if of_keys else (0, 0)
    return new_output(q), k.new_empty(shapes[0]), v.new_empty(shapes[1])


def _keep(ctx, inputs, output):
    q, k, v, ctx.scale, mask = inputs
    out, log_sum, key_sum = output
    kept = (None, None) if _fits(k, MAX_WHOLE_GRADIENT_KEYS) else (out, log_sum)
    ctx.save_for_backward(*kept, q, k, v, mask)
    ctx.mark_non_differentiable(log_sum, key_sum)


def _differentiate(backward, ctx, grad, _grad_of_log_sum, _grad_of_key_sum):
    out, log_sum, q, k, v, mask = ctx.saved_tensors
    of_q, *of_both = ctx.needs_input_grad[:3]
    found = backward(grad, out, log_sum, q, k, v, ctx.scale, mask, of_q, any(of_both))
    of_all = (of_q, any(of_both), any(of_both))
    return *(y if wanted else None for y, wanted in zip(found, of_all, strict=True)), None, None


_apply = tiles.operator(
    "key_mean_attention_triton", _forward, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate
)

register_flop_formula(torch.ops.sgformer.key_mean_attention_triton)(count_flops)
