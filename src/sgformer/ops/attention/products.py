"""`attention` in low precision on a CPU by two plain products, while there are few weights."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import scaled_products

# Up to this many weights (64 MB in float32) two plain products are faster than the fused kernel.
MAX_WEIGHTS = 2**24
# With matrix units (Intel's AMX) the fused kernel is the faster one from this many keys on.
MIN_TILED_KEYS = 128
HAS_TILES = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_tile"))  # unknown to older PyTorch


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention; PyTorch's softmax computes in float32.

    Shape:
        - q: `(B, a, N, d)`; k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)`
    """
    return scaled_products(q, k, q.shape[-1] ** -0.5).softmax(-1) @ v


def why_slow(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence: PyTorch's fused attention does better (`benchmarks/choices.py` measures by how much)."""
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16):
        return "it is for low precision on a CPU"
    if q.shape[:3].numel() * k.shape[2] > MAX_WEIGHTS:
        return f"it would write more than {MAX_WEIGHTS:,} attention weights to memory"
    if HAS_TILES and k.shape[2] >= MIN_TILED_KEYS:
        return "the fused kernel uses this processor's matrix units"
    return None
