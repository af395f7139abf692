"""The kernels of gradients as functions on tensors, in float32. Like those of `calls.py` they check nothing."""

import torch
from torch import Tensor

from .library import run


def dense(grad: Tensor) -> Tensor:
    """A gradient with channels next to each other in memory; that of a sum is one number for all."""
    return grad if grad.stride(-1) == 1 else grad.contiguous()


def depthwise_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool, gelu: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Compute what `depthwise_conv` made, anew, where GELU followed; and the gradients of map, kernel and bias.

    Shape:
        - all maps: `(B, H, W, c)`; weight: `(c, 1, 3, 3)`; bias: `(c,)`
    """
    out = torch.empty(x.shape) if gelu else None
    found = torch.empty(x.shape), torch.empty(weight.shape), torch.empty(bias.shape)
    given = [y.data_ptr() for y in (x, weight, bias, grad)]
    places = [0 if out is None else out.data_ptr(), *(y.data_ptr() for y in found)]
    numbers = [*given, *places, *x.shape, residual, torch.get_num_threads(), *x.stride()[:3], *grad.stride()[:3]]
    run("depthwise_gradient", x.dtype, numbers)
    return out, *found


def attention_gradient(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from that of what attention found.

    Shape:
        - grad, q: `(B, a, N, d)`; k, v: `(B, a, M, d)`
    """
    B, a, N, d = q.shape
    M = k.shape[2]
    of_q = torch.empty((B, N, a, d)).transpose(1, 2)
    of_k, of_v = torch.empty((2, B, M, a, d)).transpose(2, 3)
    addresses = [x.data_ptr() for x in (q, k, v, grad, of_q, of_k, of_v)]
    strides = [stride for x in (q, k, v, grad, of_q, of_k) for stride in x.stride()[:3]]
    run(f"attention_gradient_{d}", q.dtype, [*addresses, B, a, N, M, torch.get_num_threads(), *strides], scale)
    return of_q, of_k, of_v


def window_gradient(grad: Tensor, qkv: Tensor, num_heads: int, size: int) -> Tensor:
    """The gradient of queries, keys and values of a map, from that of what attention within windows found.

    Shape:
        - grad: `(B, H, W, c)`; qkv, returns: `(B, H, W, 3c)`
    """
    B, H, W, c = grad.shape
    out = torch.empty(qkv.shape)
    numbers = [qkv.data_ptr(), grad.data_ptr(), out.data_ptr(), B, H, W, num_heads, size, torch.get_num_threads()]
    d = c // num_heads
    run(f"window_gradient_{d}", qkv.dtype, [*numbers, *qkv.stride()[:3], *grad.stride()[:3]], d**-0.5)
    return out


def map_norm_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, gelu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of maps, weight and bias of `map_norm`, of contiguous maps.

    Shape:
        - grad, x: `(B, H, W, c)`; weight, bias: `(c,)`
    """
    B, H, W, c = x.shape
    found = torch.empty(x.shape), torch.empty(c), torch.empty(c)
    addresses = [y.data_ptr() for y in (x, weight, bias, grad, *found)]
    run("map_norm_gradient", x.dtype, [*addresses, B, H * W, c, gelu, torch.get_num_threads()], eps)
    return found
