"""Attention of many queries to few keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many weights (64 MB in float32) two plain products are the faster way on a CPU in low precision.
MAX_PLAIN_WEIGHTS = 2**24
# With matrix units (Intel's AMX) the fused kernel is the faster one from this many keys on.
MIN_TILED_KEYS = 128
HAS_TILES = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_tile"))  # unknown to older PyTorch


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale `d ** -0.5`.

    It is PyTorch's fused attention, except on a CPU in bfloat16 or float16 while there are few weights: two plain
    products are faster there (`benchmarks/choices.py` measures by how much).

    Shape:
        - q: `(B, a, N, d)`
        - k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)`

    Example:
        >>> attention(torch.randn(2, 4, 100, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)).shape
        torch.Size([2, 4, 100, 8])
    """
    B, a, N, d = q.shape
    M = k.shape[2]
    low_precision = q.dtype in (torch.bfloat16, torch.float16)
    many = B * a * N * M > MAX_PLAIN_WEIGHTS or (HAS_TILES and M >= MIN_TILED_KEYS)
    if q.device.type != "cpu" or not low_precision or many:
        return F.scaled_dot_product_attention(q, k, v)
    return scaled_scores(q, k, d**-0.5).softmax(-1).to(v.dtype) @ v


def scaled_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """`q @ k.mT * scale`, in float32 or better.

    Shape:
        - q: `(..., N, d)`; k: `(..., M, d)`
        - returns: `(..., N, M)`
    """
    accumulate = torch.promote_types(q.dtype, torch.float32)
    if q.dtype is torch.float16:  # whose range is soon exceeded before scores are scaled
        return ((q * scale) @ k.mT).to(accumulate)
    return (q @ k.mT).to(accumulate) * scale
