"""`window_attention` for `torch.export`, where height and width may be unknown."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` in at most five dimensions.

    Where windows fill the map, they are cut and joined by turning it. Elsewhere they are by index, padded and masked:
    `torch.export` cannot see that an unknown size divides.
    """
    B, H, W, channels = qkv.shape
    whole = isinstance(H, int) and isinstance(W, int) and not (H % size or W % size)
    windows = _cut(qkv, size) if whole else _cut_by_index(qkv, size)  # (B, h * w, size * size, 3c)
    heads = windows.unflatten(3, (3 * num_heads, channels // (3 * num_heads))).transpose(2, 3)
    q, k, v = heads.flatten(0, 1).chunk(3, 1)  # (B * h * w, a, size * size, d) each
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    exists = qkv.new_ones(1, 1, size * size) if whole else _exists(qkv, size)
    if not whole:
        # Adding, since some runtimes compare no floats: a score loses all weight, or nothing at all.
        scores = scores + (exists.unsqueeze(1) - 1) * (-torch.finfo(scores.dtype).min / 2)
    weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
    # Heads apart, then their mean: in bfloat16, OpenVINO keeps too few digits of one product over all heads.
    received = (exists.to(weights.dtype).unsqueeze(1) @ weights).mean(1)  # (B * h * w, 1, size * size)
    out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)  # (B * h * w, size * size, c)
    join = _join if whole else _join_by_index
    return join(out, B, H, W, size), join(received.reshape(-1, size * size, 1), B, H, W, size).flatten(2)


def _cut(x: Tensor, size: int) -> Tensor:
    """Windows `(B, h * w, size * size, c)` of a map `(B, H, W, c)` that they fill."""
    B, H, W, c = x.shape
    rows = x.reshape(B * (H // size), size, W // size, size * c).transpose(1, 2)
    return rows.reshape(B, -1, size * size, c)


def _join(windows: Tensor, batch: Any, height: int, width: int, size: int) -> Tensor:
    """The map `(batch, height, width, c)` from which `_cut` cut windows."""
    c = windows.shape[-1]
    rows = windows.reshape(batch * (height // size), width // size, size, size * c).transpose(1, 2)
    return rows.reshape(batch, height, width, c)


def _cut_by_index(x: Tensor, size: int) -> Tensor:
    """Windows `(B, h * w, size * size, c)` of a map `(B, H, W, c)`, filled up with tokens of its edges."""
    B, H, W, c = x.shape
    (row, _), (column, _) = _sides(H, size, x), _sides(W, size, x)  # (h, size), (w, size)
    place = _grid(row * W, column, torch.add)  # (h * w, size * size): which token of the map stands there
    first = torch.arange(B, device=x.device)[:, None, None] * (H * W)
    return F.embedding(place + first, x.reshape(B * H * W, c))


def _exists(x: Tensor, size: int) -> Tensor:
    """1 where a window of a map `(B, H, W, c)` holds a token, else 0: `(B * h * w, 1, size * size)`."""
    B, H, W, _ = x.shape
    (_, rows), (_, columns) = _sides(H, size, x), _sides(W, size, x)
    return _grid(rows, columns, torch.mul).unsqueeze(1).to(x.dtype).repeat(B, 1, 1)


def _sides(length: Any, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Places along a side, window by window, the last one where there is none; and 1 where there is, else 0."""
    window = torch.arange((length + size - 1) // size, device=like.device).unsqueeze(1)
    place = window * size + torch.arange(size, device=like.device)
    last = torch.full((1,), length - 1, device=like.device)
    return torch.minimum(place, last), (length - place).clamp(0, 1)


def _grid(rows: Tensor, columns: Tensor, combine: Any) -> Tensor:
    """Combine `(h, size)` and `(w, size)` into a number for each place of each window, `(h * w, size * size)`."""
    return combine(rows[:, None, :, None], columns[None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _join_by_index(windows: Tensor, batch: Any, height: Any, width: Any, size: int) -> Tensor:
    """The map `(batch, height, width, c)` from whose windows `(batch * h * w, size * size, c)` came."""
    row = torch.arange(height, device=windows.device).unsqueeze(1)
    column = torch.arange(width, device=windows.device)
    window = row // size * ((width + size - 1) // size) + column // size
    place = window * size**2 + row % size * size + column % size
    tokens = windows.unflatten(0, (batch, -1)).flatten(1, 2)
    return tokens.index_select(1, place.flatten()).unflatten(1, (height, width))
