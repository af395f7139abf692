"""The definition of `merge_tokens` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bands import Band


def merge(
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    bands: Sequence[Band],
    factor: int,
) -> Tensor:
    """Summary tokens, band after band; see `merge_tokens`.

    Shape:
        - x: `(B, N, c)`; ranking: `(B, N)`; weights: `(r,)` each; biases: `(1,)` each
        - returns: `(B, M, c)`
    """
    summary = []
    for band, weight, bias in zip(bands, weights, biases, strict=True):
        if band.length == 0:
            continue
        groups, r = band.num_groups(factor), band.group_size
        rank = band.start + torch.arange(groups * r * factor, device=x.device) % band.length
        index = ranking[:, rank].unsqueeze(-1).expand(-1, -1, x.shape[-1])
        members = x.gather(1, index).unflatten(1, (groups, r, factor)).mean(3)  # (B, groups, r, c)
        summary.append(torch.einsum("bgrc,r->bgc", members, weight) + bias)
    return torch.cat(summary, 1)
