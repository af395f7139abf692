"""Attention of many queries to few keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import by_heads

# Up to this many weights (64 MB in float32) two plain products are the faster way on a CPU in low precision.
MAX_PLAIN_WEIGHTS = 2**24
# With matrix units (Intel's AMX) the fused kernel is the faster one from this many keys on.
MIN_TILED_KEYS = 128
HAS_TILES = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_tile"))  # unknown to older PyTorch


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with scale `d ** -0.5`.

    It is PyTorch's fused attention, except on a CPU: in bfloat16 or float16 while there are few weights, two plain
    products are faster (`benchmarks/choices.py` measures by how much); in float32 it may be one head at a time
    (`by_heads.py`).

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
    if by_heads.pays(q, k, v):
        return by_heads.attend(q, k, v, d**-0.5, sum_weights=False)[0]
    if q.device.type != "cpu" or not low_precision or many:
        return F.scaled_dot_product_attention(q, k, v)
    return _scaled_products(q, k, d**-0.5).softmax(-1) @ v  # PyTorch's softmax computes in float32


def scaled_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """`q @ k.mT * scale`, in float32 or better.

    Shape:
        - q: `(..., N, d)`; k: `(..., M, d)`
        - returns: `(..., N, M)`
    """
    return _scaled_products(q, k, scale).to(torch.promote_types(q.dtype, torch.float32))


def _scaled_products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The same in the precision of `q`, scaled before it is rounded: the range of float16 is soon exceeded."""
    *leading, N, d = q.shape
    M = k.shape[-2]
    unused = q.new_empty(())
    scores = torch.baddbmm(
        unused, q.reshape(-1, N, d), k.reshape(-1, M, d).mT, beta=0, alpha=scale
    )  # one pass less over the scores than a product and a factor
    return scores.view(*leading, N, M)
