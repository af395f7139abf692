"""`window_attention` for `torch.export`, where height and width may be unknown."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`, always padded and masked, in at most five dimensions.

    Windows are cut and joined by index: `torch.export` cannot see that an unknown size divides.
    """
    q, k, v = qkv.chunk(3, -1)  # (B, H, W, c) each
    _, H, W, c = q.shape
    row, rows_exist = _sides(H, size, q)  # (h, size) each
    column, columns_exist = _sides(W, size, q)
    place = _grid(row * W, column, torch.add)  # (h * w, size * size): which token of the map stands there
    exists = _grid(rows_exist, columns_exist, torch.mul)[:, None, None].to(q.dtype)  # (h * w, 1, 1, size * size)
    q, k, v = (_cut(x, place, num_heads) for x in (q * (c // num_heads) ** -0.5, k, v))
    scores = q @ k.mT  # (B, h * w, a, size * size, size * size)
    # Adding, since some runtimes compare no floats: a score loses all weight, or nothing at all.
    scores = scores + (exists - 1) * (-torch.finfo(scores.dtype).min / 2)
    weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
    received = (exists.to(weights.dtype) @ weights).mean(2)  # (B, h * w, 1, size * size)
    out = (weights.to(v.dtype) @ v).transpose(2, 3).flatten(3)  # (B, h * w, size * size, c)
    return _join(out, H, W, size), _join(received.transpose(2, 3), H, W, size).squeeze(-1)


def _sides(length: Any, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Places along a side, window by window, the last one where there is none; and 1 where there is, else 0."""
    window = torch.arange((length + size - 1) // size, device=like.device).unsqueeze(1)
    place = window * size + torch.arange(size, device=like.device)
    last = torch.full((1,), length - 1, device=like.device)
    return torch.minimum(place, last), (length - place).clamp(0, 1)


def _grid(rows: Tensor, columns: Tensor, combine: Any) -> Tensor:
    """Combine `(h, size)` and `(w, size)` into a number for each place of each window, `(h * w, size * size)`."""
    return combine(rows[:, None, :, None], columns[None, :, None, :]).flatten(2, 3).flatten(0, 1)


def _cut(x: Tensor, place: Tensor, num_heads: int) -> Tensor:
    """Windows `(B, h * w, a, size * size, d)` of a map `(B, H, W, a * d)`."""
    B, H, W, c = x.shape
    first = torch.arange(B, device=x.device)[:, None, None] * (H * W)
    windows = F.embedding(place + first, x.reshape(B * H * W, c))
    return windows.unflatten(3, (num_heads, c // num_heads)).transpose(2, 3)


def _join(windows: Tensor, height: Any, width: Any, size: int) -> Tensor:
    """The map `(B, height, width, c)` from whose windows `(B, h * w, size * size, c)` came."""
    row = torch.arange(height, device=windows.device).unsqueeze(1)
    column = torch.arange(width, device=windows.device)
    window = row // size * ((width + size - 1) // size) + column // size
    place = window * size**2 + row % size * size + column % size
    return windows.flatten(1, 2).index_select(1, place.flatten()).unflatten(1, (height, width))
