"""Attention of many queries to few keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many weights (64 MB in float32) the plain products are the faster ones on a CPU.
MAX_PLAIN_WEIGHTS = 2**24


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale `d ** -0.5`.

    It is PyTorch's fused attention, except on a CPU while there are few weights, where two plain products are faster
    (`benchmarks/choices.py` measures by how much).

    Shape:
        - q: `(B, a, N, d)`
        - k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)`

    Example:
        >>> attention(torch.randn(2, 4, 100, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)).shape
        torch.Size([2, 4, 100, 8])
    """
    B, a, N, d = q.shape
    if q.device.type != "cpu" or B * a * N * k.shape[2] > MAX_PLAIN_WEIGHTS:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) * d**-0.5
    return scores.softmax(-1).to(v.dtype) @ v
