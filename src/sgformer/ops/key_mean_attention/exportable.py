"""`key_mean_attention` for `torch.export`, where the numbers of queries and keys may be unknown."""

import torch
from torch import Tensor

from ..attention.exportable import weights


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`, without a mask."""
    each = weights(q, k, scale)
    out = each.to(v.dtype) @ v
    if not torch.compiler.is_exporting():
        return out, each.detach().mean((1, 2))
    # In a file a product, which runtimes share among threads, where they add up columns of a long table with one.
    flat = each.detach().flatten(1, 2)  # (B, a * N, M)
    share = flat.new_ones(1, flat.shape[1]) / flat.shape[1]
    return out, (share @ flat).flatten(1)


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: there is a mask."""
    return None if mask is None else "it takes no mask"
