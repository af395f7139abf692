"""The definition of `merge_tokens` in plain PyTorch, and what all its backends are given."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..group_tokens import Band, members


class Merging(NamedTuple):
    """The merging of each band, from the least to the most significant."""

    weights: Sequence[Tensor]  # `(r,)` each
    biases: Sequence[Tensor]  # `(1,)` each
    bands: Sequence[Band]
    factor: int  # of how many tokens a member is the mean


def merge(x: Tensor, ranking: Tensor, by: Merging) -> Tensor:
    """Summary tokens, band after band; see `merge_tokens`."""
    summary = [
        torch.einsum("bgrc,r->bgc", members(x, ranking, band, by.factor), weight) + bias
        for weight, bias, band in zip(*by[:3], strict=True)
    ]
    return torch.cat(summary, 1)
