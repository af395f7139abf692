"""The kernels as functions on tensors. They check nothing: `objection` does, and what else an op's `native.py` says."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .library import run


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, key_mean: Tensor | None = None) -> Tensor:
    """Writes softmax attention, and the mean weight of each key, if there is a place for it.

    Shape:
        - q, out: `(B, a, N, d)`; k, v: `(B, a, M, d)`; key_mean: `(B, M)`, in float32
    """
    B, a, N, d = q.shape
    addresses = [x.data_ptr() for x in (q, k, v, out)] + [0 if key_mean is None else key_mean.data_ptr()]
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    numbers = [*addresses, B, a, N, k.shape[2], torch.get_num_threads(), *strides]
    run(f"attention_{d}", q.dtype, numbers, scale)
    return out


def window_attention(qkv: Tensor, num_heads: int, size: int, out: Tensor) -> Tensor:
    """Writes attention within windows of `size` to `out`, from queries, keys and values; returns what tokens receive.

    Shape:
        - qkv: `(B, H, W, 3c)`; out: `(B, H, W, c)`
        - returns: `(B, H, W)`, in float32
    """
    B, H, W, c = out.shape
    received = torch.empty((B, H, W), dtype=torch.float32)
    no_coarse_tokens = (0, 1, 1, 1)
    numbers = [qkv.data_ptr(), out.data_ptr(), received.data_ptr(), *no_coarse_tokens, B, H, W, num_heads, size]
    numbers += [torch.get_num_threads(), *qkv.stride()[:3], *out.stride()[:3]]
    d = c // num_heads
    run(f"windows_{d}", qkv.dtype, numbers, d**-0.5)
    return received


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    more: Tensor | None,
    *,
    gelu: bool,
    above: bool = False,
    below: bool = False,
) -> Tensor:
    """A 3x3 depthwise convolution of a map or some of its rows, plus `more`, through GELU where asked for.

    `above` and `below` say whether there is a row of the map in memory before the first and after the last one.

    Shape:
        - x, more, returns: `(B, H, W, c)`; weight: `(c, 1, 3, 3)`; bias: `(c,)`
    """
    out = torch.empty(x.shape, dtype=x.dtype)
    numbers = [x.data_ptr(), weight.data_ptr(), bias.data_ptr(), 0 if more is None else more.data_ptr()]
    numbers += [out.data_ptr(), *x.shape, gelu, torch.get_num_threads(), *x.stride()[:3]]
    numbers += (0, 0, 0) if more is None else more.stride()[:3]
    run("depthwise", x.dtype, [*numbers, above, below])
    return out


def merge_tokens(
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    bands: Sequence[tuple[int, int, int]],
    length: int,
    factor: int,
) -> Tensor:
    """Summary tokens; see the op. `length` is their number."""
    B, N, c = x.shape
    out = torch.empty((B, length, c), dtype=x.dtype)
    numbers = [x.data_ptr(), ranking.data_ptr(), out.data_ptr(), B, N, c, length, factor, torch.get_num_threads()]
    numbers += [len(bands), *x.stride()[:2]]
    for band, weight, bias in zip(bands, weights, biases, strict=True):
        numbers += [weight.data_ptr(), bias.data_ptr(), *band]
    run("merge", x.dtype, numbers)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor, more: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, plus `more`, of contiguous maps; to `out` if there is such a place.

    Shape:
        - x: `(..., c)`; weight: `(c', c)`; bias: `(c',)`
        - more, returns: `(..., c')`
    """
    c, c_out = x.shape[-1], bias.shape[0]
    out = torch.empty((*x.shape[:-1], c_out), dtype=x.dtype) if out is None else out
    of_more = 0 if more is None else more.data_ptr()
    numbers = [x.data_ptr(), weight.data_ptr(), bias.data_ptr(), of_more, out.data_ptr()]
    run("linear", x.dtype, [*numbers, x.numel() // c, c, c_out, torch.get_num_threads()])
    return out


def rank_tokens(significance: Tensor) -> Tensor:
    """Indices of tokens `(B, N)` in order, ties by their place, NaN last."""
    B, N = significance.shape
    out = torch.empty((B, N), dtype=torch.int64)
    numbers = [significance.data_ptr(), out.data_ptr(), B, N, significance.stride(0), torch.get_num_threads()]
    run("rank", significance.dtype, numbers)
    return out


def add_mlp_(
    x: Tensor, above: Tensor, below: Tensor, layers: Sequence[tuple[Tensor, Tensor]], hidden: int, eps: float
) -> None:
    """Adds to some rows of a map, contiguous, the MLP of their norm, by one thread; the rows are written over.

    `layers` are weight and bias of norm, first product, depthwise convolution and second product.

    Shape:
        - x: `(rows, W, c)`; above, below, the rows there: `(1, W, c)` or `(0, W, c)`
    """
    neighbours = [row.data_ptr() if len(row) else 0 for row in (above, below)]
    addresses = [tensor.data_ptr() for layer in layers for tensor in layer]
    run("add_mlp", x.dtype, [x.data_ptr(), *neighbours, *x.shape, hidden, *addresses], eps)


def map_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, gelu: bool) -> Tensor:
    """A norm over all of each map, through GELU where asked for, of contiguous maps.

    Shape:
        - x, returns: `(B, H, W, c)`; weight, bias: `(c,)`
    """
    out = torch.empty_like(x)
    B, H, W, c = x.shape
    numbers = [x.data_ptr(), weight.data_ptr(), bias.data_ptr(), out.data_ptr(), B, H * W, c, gelu]
    run("map_norm", x.dtype, [*numbers, torch.get_num_threads()], eps)
    return out


def cut_regions(
    maps: Sequence[Tensor], strides: Sequence[int], regions: Tensor, levels: Tensor, *, side: int, samples: int
) -> Tensor:
    """Regions of the maps of each level, as `torchvision.ops.roi_align` cuts them out, `samples` to a cell's side.

    Shape:
        - maps: `(B, H, W, c)`; levels, of each region: `(n,)`, in int64
        - regions: `(n, 5)`, number of the image, left, top, right and bottom in pixels, in float32
        - returns: `(n, c, side, side)`
    """
    regions, levels, c = regions.contiguous(), levels.contiguous(), maps[0].shape[-1]
    out = torch.empty((len(regions), c, side, side), dtype=torch.float32)
    numbers = [regions.data_ptr(), levels.data_ptr(), out.data_ptr(), len(regions), c, side, samples]
    numbers.append(torch.get_num_threads())
    for x, stride in zip(maps, strides, strict=True):
        numbers += [x.data_ptr(), *x.shape[1:3], stride, *x.stride()[:3]]
    run("cut_regions", torch.float32, numbers)
    return out
