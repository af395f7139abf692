"""`attention` on a CPU by two plain products, while there are few weights."""

import torch
from torch import Tensor

from .reference import scaled_products

# Up to this many weights (64 MB in float32) two plain products are faster than the fused kernel.
MAX_WEIGHTS = 2**24
# The same in float32: 4 MB. For a gradient the fused kernel keeps less.
MAX_FLOAT32_WEIGHTS = 2**20
# With matrix units (Intel's AMX) the fused kernel is the faster one from this many keys on.
MIN_TILED_KEYS = 128
HAS_TILES = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_tile"))  # unknown to older PyTorch


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `reference.attend`; PyTorch's softmax computes in float32."""
    return scaled_products(q, k, q.shape[-1] ** -0.5).softmax(-1) @ v


def why_slow(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence: PyTorch's fused attention does better (`benchmarks/choices.py` measures by how much)."""
    if q.device.type != "cpu" or q.dtype is torch.float64:
        return "it is for a CPU, and float32 at most"
    largest = MAX_FLOAT32_WEIGHTS if q.dtype is torch.float32 else MAX_WEIGHTS
    if q.shape[:3].numel() * k.shape[2] > largest:
        return f"it would write more than {largest:,} attention weights to memory"
    if q.dtype is torch.float32:
        needs_weights = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        return "it would keep the weights for the gradient" if needs_weights else None
    if HAS_TILES and k.shape[2] >= MIN_TILED_KEYS:
        return "the fused kernel uses this processor's matrix units"
    return None
