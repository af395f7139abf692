"""`key_mean_attention` as kernels for GPUs, in Triton: one for the forward pass, two for the backward.

A program of the forward kernel takes a block of queries of one head. It goes over the keys twice: first for the output
and the logarithm of each query's sum of exponentials, with the running maximum of flash attention; then, with these
logarithms known, for the weights themselves, whose column sums it adds to the key means. The backward kernels compute
the weights once more from the logarithms. No weight ever leaves the chip.

With `TRITON_INTERPRET=1` in the environment, before triton is imported for the first time, the kernels run on a CPU,
slowly: that is how machines without a GPU test them.
"""

# pyright: reportPossiblyUnboundVariable=false, reportIndexIssue=false
# (triton need not be installed, and its kernels are started by an index.)

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .reference import num_queries

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheel for this system; why_not says so
    triton = None


def jit(kernel: Any) -> Any:
    """The kernel, compiled by Triton; as it is where there is none, for it is never run then."""
    return triton.jit(kernel) if triton else kernel


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK_QUERIES = 64
BLOCK_KEYS = 64
QUERIES_PER_PROGRAM = 1024  # of the kernel for the gradients of keys and values
MAX_CHANNELS = 128


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: no Triton, no GPU, or inputs that the kernels do not know."""
    if triton is None:
        return "triton is not installed"
    if q.device.type != "cuda" and not (INTERPRETED and q.device.type == "cpu"):
        return f"its kernels run on GPUs, and the inputs are on {q.device.type!r}"
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, which is too little for {str(q.dtype).removeprefix('torch.')}"
    if q.shape[3] > MAX_CHANNELS:
        return f"a head has {q.shape[3]} channels, more than {MAX_CHANNELS}"
    if min(*q.shape, k.shape[2]) == 0:
        return "there is nothing to attend to or with"
    return None


def why_slow(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: interpreted kernels are for tests only."""
    return None if q.device.type == "cuda" else "Triton's interpreter is for tests"


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same numbers as `reference.attend`, from the kernels of this file.

    Shape:
        - q: `(B, a, N, d)`; k, v: `(B, a, M, d)`; mask: broadcasts to `(B, a, N, M)`
        - returns: `(B, a, N, d)` and `(B, M)`
    """
    out, _, key_sum = _forward(q, k, v, scale, mask)
    return out, key_sum.detach() / num_queries(q, mask)


@jit
def _load(pointer, rows, num_rows, stride_row, stride_channel, d: tl.constexpr, D: tl.constexpr):
    """A tile `(rows, D)` of one head; zeros beyond the last row and the last of `d` channels."""
    channels = tl.arange(0, D)
    exists = (rows < num_rows)[:, None] & (channels < d)[None, :]
    at = pointer + rows.to(tl.int64)[:, None] * stride_row + channels[None, :] * stride_channel
    return tl.load(at, mask=exists, other=0.0)


@jit
def _dot(x, y, INTERPRET: tl.constexpr, PRECISION: tl.constexpr):
    """A product of tiles that accumulates in float32. The interpreter's is wrong in bfloat16, so it gets float32."""
    if INTERPRET:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    return tl.dot(x, y, input_precision=PRECISION)


@jit
def _scores(
    q, k, mask, rows, N, columns, M, stride_mn, stride_mm, scale,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores `(rows, columns)`, minus infinity where a query may not see a key or there is none."""
    seen = (rows < N)[:, None] & (columns < M)[None, :]
    if HAS_MASK:
        at = mask + rows.to(tl.int64)[:, None] * stride_mn + columns[None, :] * stride_mm
        seen = seen & (tl.load(at, mask=seen, other=0) != 0)
    scores = _dot(q, tl.trans(k), INTERPRET, PRECISION) * scale
    return tl.where(seen, scores, float("-inf"))


@jit
def _forward_kernel(
    q, k, v, mask, out, log_sum, key_sum, scale, a, N, M,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q_tile = _load(q + image * q_b + of_image * q_a, rows, N, q_n, q_d, d, D)
    k += image * k_b + of_image * k_a
    v += image * v_b + of_image * v_a
    mask += image * m_b + of_image * m_a

    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    sum_of_values = tl.zeros((BLOCK_N, D), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        k_tile = _load(k, columns, M, k_m, k_d, d, D)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale, HAS_MASK, INTERPRET, PRECISION
        )
        now_largest = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(now_largest == float("-inf"), 0.0, now_largest)  # a query that has seen no key yet
        weights = tl.exp(scores - shift[:, None])
        shrink = tl.exp(largest - shift)
        v_tile = _load(v, columns, M, v_m, v_d, d, D)
        sum_of_values = sum_of_values * shrink[:, None] + _dot(
            weights.to(v_tile.dtype), v_tile, INTERPRET, PRECISION
        )
        total = total * shrink + tl.sum(weights, 1)
        largest = now_largest

    sees = total > 0
    channels = tl.arange(0, D)
    at = out + (head * N + rows)[:, None] * d + channels[None, :]
    result = sum_of_values / tl.where(sees, total, 1.0)[:, None]
    tl.store(at, result.to(out.dtype.element_ty), mask=(rows < N)[:, None] & (channels < d)[None, :])
    # Where a query sees nothing, infinity: its weights are then zero wherever they are computed again.
    logarithm = tl.where(sees, largest + tl.log(tl.where(sees, total, 1.0)), float("inf"))
    tl.store(log_sum + head * N + rows, logarithm, mask=rows < N)

    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        k_tile = _load(k, columns, M, k_m, k_d, d, D)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale, HAS_MASK, INTERPRET, PRECISION
        )
        of_block = tl.sum(tl.exp(scores - logarithm[:, None]), 0)
        tl.atomic_add(key_sum + image * M + columns, of_block, mask=columns < M)


@jit
def _query_gradient_kernel(
    q, k, v, mask, grad, log_sum, delta, grad_q, scale, a, N, M,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, g_b, g_a, g_n, g_d,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q_tile = _load(q + image * q_b + of_image * q_a, rows, N, q_n, q_d, d, D)
    grad_tile = _load(grad + image * g_b + of_image * g_a, rows, N, g_n, g_d, d, D)
    logarithm = tl.load(log_sum + head * N + rows, mask=rows < N, other=float("inf"))
    delta_tile = tl.load(delta + head * N + rows, mask=rows < N, other=0.0)
    k += image * k_b + of_image * k_a
    v += image * v_b + of_image * v_a
    mask += image * m_b + of_image * m_a

    result = tl.zeros((BLOCK_N, D), tl.float32)
    for start in range(0, M, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        k_tile = _load(k, columns, M, k_m, k_d, d, D)
        v_tile = _load(v, columns, M, v_m, v_d, d, D)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale, HAS_MASK, INTERPRET, PRECISION
        )
        weights = tl.exp(scores - logarithm[:, None])
        grad_weights = _dot(grad_tile, tl.trans(v_tile), INTERPRET, PRECISION)
        grad_scores = weights * (grad_weights - delta_tile[:, None]) * scale
        result += _dot(grad_scores.to(k_tile.dtype), k_tile, INTERPRET, PRECISION)
    channels = tl.arange(0, D)
    at = grad_q + (head * N + rows)[:, None] * d + channels[None, :]
    tl.store(at, result.to(grad_q.dtype.element_ty), mask=(rows < N)[:, None] & (channels < d)[None, :])


@jit
def _key_gradient_kernel(
    q, k, v, mask, grad, log_sum, delta, grad_k, grad_v, scale, a, N, M,
    q_b, q_a, q_n, q_d, k_b, k_a, k_m, k_d, v_b, v_a, v_m, v_d, m_b, m_a, m_n, m_m, g_b, g_a, g_n, g_d,
    d: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr,
    HAS_MASK: tl.constexpr, INTERPRET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of keys and a stretch of queries: keys are few and queries many, so one stretch would idle the GPU."""
    head = tl.program_id(1).to(tl.int64)
    image, of_image = head // a, head % a
    columns = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k_tile = _load(k + image * k_b + of_image * k_a, columns, M, k_m, k_d, d, D)
    v_tile = _load(v + image * v_b + of_image * v_a, columns, M, v_m, v_d, d, D)
    q += image * q_b + of_image * q_a
    grad += image * g_b + of_image * g_a
    mask += image * m_b + of_image * m_a

    of_keys = tl.zeros((BLOCK_M, D), tl.float32)
    of_values = tl.zeros((BLOCK_M, D), tl.float32)
    first = tl.program_id(2) * ROWS
    for start in range(first, tl.minimum(first + ROWS, N), BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        q_tile = _load(q, rows, N, q_n, q_d, d, D)
        grad_tile = _load(grad, rows, N, g_n, g_d, d, D)
        logarithm = tl.load(log_sum + head * N + rows, mask=rows < N, other=float("inf"))
        delta_tile = tl.load(delta + head * N + rows, mask=rows < N, other=0.0)
        scores = _scores(
            q_tile, k_tile, mask, rows, N, columns, M, m_n, m_m, scale, HAS_MASK, INTERPRET, PRECISION
        )
        weights = tl.exp(scores - logarithm[:, None])
        of_values += _dot(tl.trans(weights.to(grad_tile.dtype)), grad_tile, INTERPRET, PRECISION)
        grad_weights = _dot(grad_tile, tl.trans(v_tile), INTERPRET, PRECISION)
        grad_scores = weights * (grad_weights - delta_tile[:, None]) * scale
        of_keys += _dot(tl.trans(grad_scores.to(q_tile.dtype)), q_tile, INTERPRET, PRECISION)
    channels = tl.arange(0, D)
    at = (head * M + columns)[:, None] * d + channels[None, :]
    exists = (columns < M)[:, None] & (channels < d)[None, :]
    tl.atomic_add(grad_k + at, of_keys, mask=exists)
    tl.atomic_add(grad_v + at, of_values, mask=exists)


def _options(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int], dict]:
    """What all kernels take: a mask to point at, strides of q, k, v and the mask, and the constants."""
    strides = [*q.stride(), *k.stride(), *v.stride()]
    if mask is None:
        strides += [0, 0, 0, 0]
    else:  # a dimension of 1 is broadcast: its stride counts nothing
        strides += [0 if n == 1 else step for n, step in zip(mask.shape, mask.stride(), strict=True)]
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    constants = {
        "d": q.shape[3],
        "D": max(16, 1 << (q.shape[3] - 1).bit_length()),
        "BLOCK_N": BLOCK_QUERIES,
        "BLOCK_M": BLOCK_KEYS,
        "HAS_MASK": mask is not None,
        "INTERPRET": INTERPRETED,
        "PRECISION": precision,
    }
    return q if mask is None else mask.view(torch.uint8), strides, constants


@torch.library.custom_op("sgformer::key_mean_attention_triton", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    B, a, N, _ = q.shape
    M = k.shape[2]
    out = q.new_empty(q.shape)
    log_sum = q.new_empty((B, a, N), dtype=torch.float32)
    key_sum = q.new_zeros((B, M), dtype=torch.float32)
    pointer, strides, constants = _options(q, k, v, mask)
    grid = (-(-N // BLOCK_QUERIES), B * a)
    _forward_kernel[grid](q, k, v, pointer, out, log_sum, key_sum, scale, a, N, M, *strides, **constants)
    return out, log_sum, key_sum


@_forward.register_fake
def _(q, k, v, scale, mask):
    log_sum = q.new_empty(q.shape[:3], dtype=torch.float32)
    return q.new_empty(q.shape), log_sum, q.new_empty((q.shape[0], k.shape[2]), dtype=torch.float32)


@torch.library.custom_op("sgformer::key_mean_attention_triton_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    log_sum: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, a, N, _ = q.shape
    M = k.shape[2]
    grad = grad.to(q.dtype)
    delta = (grad.float() * out.float()).sum(-1)
    grad_q = q.new_empty(q.shape)
    grad_k = k.new_zeros(k.shape, dtype=torch.float32)
    grad_v = v.new_zeros(v.shape, dtype=torch.float32)
    pointer, strides, constants = _options(q, k, v, mask)
    strides += grad.stride()
    numbers = (scale, a, N, M, *strides)
    grid = (-(-N // BLOCK_QUERIES), B * a)
    _query_gradient_kernel[grid](q, k, v, pointer, grad, log_sum, delta, grad_q, *numbers, **constants)
    grid = (-(-M // BLOCK_KEYS), B * a, -(-N // QUERIES_PER_PROGRAM))
    _key_gradient_kernel[grid](
        q,
        k,
        v,
        pointer,
        grad,
        log_sum,
        delta,
        grad_k,
        grad_v,
        *numbers,
        ROWS=QUERIES_PER_PROGRAM,
        **constants,
    )
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@_backward.register_fake
def _(grad, out, log_sum, q, k, v, scale, mask):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx, inputs, output):
    q, k, v, ctx.scale, mask = inputs
    out, log_sum, key_sum = output
    ctx.save_for_backward(out, log_sum, q, k, v, mask)
    ctx.mark_non_differentiable(log_sum, key_sum)


def _differentiate(ctx, grad, _grad_of_log_sum, _grad_of_key_sum):
    out, log_sum, q, k, v, mask = ctx.saved_tensors
    return (*_backward(grad, out, log_sum, q, k, v, ctx.scale, mask), None, None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)


@register_flop_formula(torch.ops.sgformer.key_mean_attention_triton)
def _count_flops(q_shape, k_shape, *args, **kwargs) -> int:
    B, a, N, d = q_shape
    return (
        2 * 2 * B * a * N * k_shape[2] * d
    )  # two products, as the op is defined; the third is this backend's own
