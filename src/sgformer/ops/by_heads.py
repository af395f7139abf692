"""Attention on a CPU a head and some queries at a time: plain products and a softmax on weights that stay in the cache.

For large maps this is faster than kernels that take all heads at once, where something is wanted of the weights, as in
`key_mean_attention`. Where nothing is, PyTorch's fused kernel is.
"""

import torch
from torch import Tensor

from .linear import linear
from .linear.convolution import is_convolution

# Weights that are computed at a time: 8 MB. With two threads this took two thirds of the time of 1 MB.
CHUNK_WEIGHTS = 2**21
# Convolutions want many queries at a time: 16 MB where there are more keys than this.
MANY_KEYS = 1024


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the weights that each key receives from all queries of all heads together. No gradient.

    Shape:
        - q: `(B, a, N, d)`; k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)` and `(B, M)`, in float64
    """
    B, a, N, _ = q.shape
    M = k.shape[2]
    out = new_output(q)
    total = q.new_zeros((B, M), dtype=torch.float64)
    as_convolution = is_convolution(q[:1, 0], k[:1, 0])
    step = max(1, CHUNK_WEIGHTS * (1 + (as_convolution and M > MANY_KEYS)) // M)
    step = max(step // 16 * 16, min(step, 16))  # see `linear/convolution.py`
    buffer = None if as_convolution else q.new_empty((min(step, N), M))
    for b in range(B):
        for h in range(a):
            queries, keys, values = q[b, h] * scale, k[b, h], v[b, h].contiguous()
            for part, out_part in zip(queries.split(step), out[b, h].split(step), strict=True):
                if buffer is None:
                    weights = linear(part, keys)
                    torch.softmax(weights, -1, out=weights)
                    out_part.copy_(linear(weights, values.t()))
                else:
                    weights = torch.mm(part, keys.t(), out=buffer[: len(part)])
                    torch.softmax(weights, -1, out=weights)
                    torch.mm(weights, values, out=out_part)
                total[b] += weights.sum(0)
    return out, total


def new_output(q: Tensor) -> Tensor:
    """Memory for `(B, a, N, d)` in which the channels of all heads of a query are neighbours, as a map wants them."""
    B, a, N, d = q.shape
    return q.new_empty((B, N, a, d)).transpose(1, 2)
