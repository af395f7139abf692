"""The kernels of gradients as functions on tensors, in float32. Like those of `calls.py` they check nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .library import run


def dense(grad: Tensor) -> Tensor:
    """A gradient with channels next to each other in memory; that of a sum is one number for all."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


def depthwise_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: bool,
    gelu: bool,
    of_x: Tensor | None = None,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Compute what `depthwise_conv` made, anew, where GELU followed; and the gradients of map, kernel and bias.

    That of the map goes to `of_x` if there is such a place, which may be `grad` itself where a map fits the cache.

    Shape:
        - all maps: `(B, H, W, c)`; weight: `(c, 1, 3, 3)`; bias: `(c,)`
    """
    out = x.new_empty(x.shape) if gelu else None
    of_x = x.new_empty(x.shape) if of_x is None else of_x
    found = of_x, weight.new_empty(weight.shape), bias.new_empty(bias.shape)
    given = [y.data_ptr() for y in (x, weight, bias, grad)]
    places = [0 if out is None else out.data_ptr(), *(y.data_ptr() for y in found)]
    numbers = [*given, *places, *x.shape, residual, torch.get_num_threads(), *x.stride()[:3], *grad.stride()[:3]]
    run("depthwise_gradient", x.dtype, [*numbers, *of_x.stride()[:3]])
    return out, *found


def attention_gradient(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, to `out` if there are such places, from that of what attention found.

    Those of keys and of values lie the same way in memory.

    Shape:
        - grad, q: `(B, a, N, d)`; k, v: `(B, a, M, d)`
    """
    B, a, N, d = q.shape
    M = k.shape[2]
    of_k, of_v = q.new_empty((2, B, M, a, d)).transpose(2, 3) if out is None else out[1:]
    of_q = q.new_empty((B, N, a, d)).transpose(1, 2) if out is None else out[0]
    addresses = [x.data_ptr() for x in (q, k, v, grad, of_q, of_k, of_v)]
    strides = [stride for x in (q, k, v, grad, of_q, of_k) for stride in x.stride()[:3]]
    run(f"attention_gradient_{d}", q.dtype, [*addresses, B, a, N, M, torch.get_num_threads(), *strides], scale)
    return of_q, of_k, of_v


def window_gradient(grad: Tensor, qkv: Tensor, num_heads: int, size: int, out: Tensor | None = None) -> Tensor:
    """The gradient of queries, keys and values of a map, from that of what attention within windows found.

    It goes to `out` if there is such a place.

    Shape:
        - grad: `(B, H, W, c)`; qkv, returns: `(B, H, W, 3c)`
    """
    B, H, W, c = grad.shape
    out = qkv.new_empty(qkv.shape) if out is None else out
    numbers = [qkv.data_ptr(), grad.data_ptr(), out.data_ptr(), B, H, W, num_heads, size, torch.get_num_threads()]
    d = c // num_heads
    run(
        f"window_gradient_{d}", qkv.dtype, [*numbers, *qkv.stride()[:3], *grad.stride()[:3], *out.stride()[:3]], d**-0.5
    )
    return out


def map_norm_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, gelu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of maps, weight and bias of `map_norm`, of contiguous maps.

    Shape:
        - grad, x: `(B, H, W, c)`; weight, bias: `(c,)`
    """
    B, H, W, c = x.shape
    found = x.new_empty(x.shape), x.new_empty(c), x.new_empty(c)
    addresses = [y.data_ptr() for y in (x, weight, bias, grad, *found)]
    run("map_norm_gradient", x.dtype, [*addresses, B, H * W, c, gelu, torch.get_num_threads()], eps)
    return found


def merge_gradient_(
    of_x: Tensor,
    grad: Tensor,
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    bands: Sequence[tuple[int, int, int]],
    factor: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Adds the gradient of tokens that `merge_tokens` merged to `of_x`; returns those of weights and biases.

    Shape:
        - of_x, x: `(B, N, c)`; grad: `(B, M, c)`, all contiguous
    """
    (B, N, c), M = x.shape, grad.shape[1]
    of_weights, of_biases = [weight.new_empty(weight.shape) for weight in weights], [x.new_empty(1) for _ in weights]
    numbers = [y.data_ptr() for y in (grad, x, ranking, of_x)]
    numbers += [B, N, c, M, factor, torch.get_num_threads(), len(bands)]
    for weight, of_weight, of_bias, band in zip(weights, of_weights, of_biases, bands, strict=True):
        numbers += [weight.data_ptr(), of_weight.data_ptr(), of_bias.data_ptr(), *band]
    run("merge_gradient", x.dtype, numbers)
    return of_weights, of_biases
