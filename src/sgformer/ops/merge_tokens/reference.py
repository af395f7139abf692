"""The definition of `merge_tokens` in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..group_tokens.bands import Band
from ..group_tokens.reference import members


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
    summary = [
        torch.einsum("bgrc,r->bgc", members(x, ranking, band, factor), weight) + bias
        for band, weight, bias in zip(bands, weights, biases, strict=True)
    ]
    return torch.cat(summary, 1)
