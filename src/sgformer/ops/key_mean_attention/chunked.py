"""`key_mean_attention` a chunk of queries at a time: no tensor of size `N * M` is ever kept.

Forward computes the weights of a chunk, uses them and drops them; backward computes them once more. To
`torch.compile` and autograd it is one opaque operator, so that the loop is neither traced nor unrolled.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import by_heads
from ..first_order import first_order
from .reference import attention_weights, count_flops, num_queries

# Weights that are computed at a time: 4 MB in float32, which stays in the caches of one core.
CHUNK_WEIGHTS = 2**20
# From this many weights a head on, heads are computed one at a time.
MIN_HEAD_WEIGHTS = 2**17


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` in memory that does not grow with `N * M`."""
    out, key_mean = _forward(q, k, v, scale, mask)
    return out, key_mean.detach()


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices, of images and of queries: several whole images a chunk, or a part of one."""
    B, a, N, _ = q.shape
    per_query = a * k.shape[2]
    if per_query * N > CHUNK_WEIGHTS:
        queries = max(1, CHUNK_WEIGHTS // per_query)
        for b in range(B):
            for n in range(0, N, queries):
                yield slice(b, b + 1), slice(n, n + queries)
    else:
        images = max(1, CHUNK_WEIGHTS // max(1, per_query * N))
        for b in range(0, B, images):
            yield slice(b, b + images), slice(0, N)


def _chunk_of(mask: Tensor | None, images: slice, queries: slice) -> Tensor | None:
    if mask is None:
        return None
    mask = mask if mask.shape[0] == 1 else mask[images]
    return mask if mask.shape[2] == 1 else mask[:, :, queries]


@torch.library.custom_op("sgformer::key_mean_attention_chunked", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None and _one_head_at_a_time(q, k):
        with torch.autocast("cpu", enabled=False):
            out, key_sum = by_heads.attend(q, k, v, scale)
        return out, (key_sum / num_queries(q, mask)).to(q.dtype)
    out = by_heads.new_output(q)
    # In float64, so that the error does not grow with the number of chunks; Apple's GPUs have none.
    precise = torch.float32 if q.device.type == "mps" else torch.float64
    key_sum = q.new_zeros((q.shape[0], k.shape[2]), dtype=precise)
    with torch.autocast(q.device.type, enabled=False):
        for images, queries in _chunks(q, k):
            weights = attention_weights(q[images, :, queries], k[images], scale, _chunk_of(mask, images, queries))
            out[images, :, queries] = weights.to(v.dtype) @ v[images]
            key_sum[images] += weights.sum((1, 2))
    return out, (key_sum / num_queries(q, mask)).to(torch.promote_types(q.dtype, torch.float32))


def _one_head_at_a_time(q: Tensor, k: Tensor) -> bool:
    """Whether a CPU has enough to do in one head."""
    many = q.shape[2] * k.shape[2] >= MIN_HEAD_WEIGHTS and k.shape[2] <= by_heads.CHUNK_WEIGHTS
    return many and q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64)


def sum_of_weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The weights that each key receives from all queries of all heads together; `(B, M)`, in float64."""
    key_sum = q.new_zeros((q.shape[0], k.shape[2]), dtype=torch.float64)
    for images, queries in _chunks(q, k):
        key_sum[images] += attention_weights(q[images, :, queries], k[images], scale, None).sum((1, 2))
    return key_sum


@_forward.register_fake
def _(q, k, v, scale, mask):
    dtype = torch.promote_types(q.dtype, torch.float32)
    return by_heads.new_output(q), q.new_empty((q.shape[0], k.shape[2]), dtype=dtype)


@torch.library.custom_op("sgformer::key_mean_attention_chunked_backward", mutates_args=())
def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, from that of the output; the weights of a chunk are computed once more."""
    grad = grad.to(q.dtype)
    accumulate = torch.promote_types(q.dtype, torch.float32)
    grad_q = q.new_empty(q.shape)
    grad_k, grad_v = k.new_zeros(k.shape, dtype=accumulate), v.new_zeros(v.shape, dtype=accumulate)
    with torch.autocast(q.device.type, enabled=False):
        for images, queries in _chunks(q, k):
            q_chunk, grad_chunk = q[images, :, queries], grad[images, :, queries]
            weights = attention_weights(q_chunk, k[images], scale, _chunk_of(mask, images, queries))
            grad_v[images] += weights.to(v.dtype).mT @ grad_chunk
            grad_weights = (grad_chunk @ v[images].mT).to(accumulate)
            # Softmax: dS = P * (dP - sum(P * dP)).
            grad_weights -= (weights * grad_weights).sum(-1, keepdim=True)
            grad_scores = (weights * grad_weights * scale).to(q.dtype)
            grad_q[images, :, queries] = grad_scores @ k[images]
            grad_k[images] += grad_scores.mT @ q_chunk
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@backward.register_fake
def _(grad, q, k, v, scale, mask):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx, inputs, output):
    q, k, v, ctx.scale, mask = inputs
    ctx.save_for_backward(q, k, v, mask)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, _grad_of_key_mean):
    q, k, v, mask = ctx.saved_tensors
    return (*backward(grad, q, k, v, ctx.scale, mask), None, None)


_forward.register_autograd(first_order(_differentiate), setup_context=_setup_context)

register_flop_formula(torch.ops.sgformer.key_mean_attention_chunked)(count_flops)
