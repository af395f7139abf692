"""`window_attention` with the windows at the edges, which are filled up and masked, by themselves: few among many."""

import torch
from torch import Tensor

from . import reference

# Maps of fewer tokens are not worth it.
MIN_SPLIT = 2**12


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` with the windows at the edges apart."""
    _, H, W, _ = qkv.shape
    rows = [
        [reference.attend(tile, num_heads, size) for tile in row.split(_whole_and_rest(W, size), 2)]
        for row in qkv.split(_whole_and_rest(H, size), 1)
    ]
    out, significance = (torch.cat([torch.cat([tile[i] for tile in row], 2) for row in rows], 1) for i in range(2))
    return out, significance


def why_not(qkv: Tensor, num_heads: int, size: int) -> str | None:
    """None, or a sentence: there is nothing to set apart."""
    if not (qkv.shape[1] % size or qkv.shape[2] % size):
        return "windows fill the map"
    return None


def why_slow(qkv: Tensor, num_heads: int, size: int) -> str | None:
    """None, or a sentence: on a small map it is more work than it saves."""
    if qkv.shape[1] * qkv.shape[2] < MIN_SPLIT:
        return f"the map has fewer than {MIN_SPLIT:,} tokens"
    return None


def _whole_and_rest(side: int, size: int) -> list[int]:
    """A side in two: the part that windows fill, and what is left; without an empty one."""
    rest = side % size
    return [part for part in (side - rest, rest) if part]
