"""The definition of `merge_tokens` in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..group_tokens import Band, members


def merge(
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    bands: Sequence[Band],
    factor: int,
) -> Tensor:
    """Summary tokens, band after band; see `merge_tokens`."""
    summary = [
        torch.einsum("bgrc,r->bgc", members(x, ranking, band, factor), weight) + bias
        for band, weight, bias in zip(bands, weights, biases, strict=True)
    ]
    return torch.cat(summary, 1)
