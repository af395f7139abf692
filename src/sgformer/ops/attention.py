"""Attention of many queries to few keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many weights (64 MB in float32) two plain products are the faster way on a CPU in low precision.
MAX_PLAIN_WEIGHTS = 2**24


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale `d ** -0.5`.

    It is PyTorch's fused attention, except on a CPU in bfloat16 or float16 while there are few weights: two plain
    products are several times faster there (`benchmarks/choices.py` measures by how much).

    Shape:
        - q: `(B, a, N, d)`
        - k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)`

    Example:
        >>> attention(torch.randn(2, 4, 100, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)).shape
        torch.Size([2, 4, 100, 8])
    """
    B, a, N, d = q.shape
    low_precision = q.dtype in (torch.bfloat16, torch.float16)
    if q.device.type != "cpu" or not low_precision or B * a * N * k.shape[2] > MAX_PLAIN_WEIGHTS:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.mT).to(torch.float32) * d**-0.5
    return scores.softmax(-1).to(v.dtype) @ v
