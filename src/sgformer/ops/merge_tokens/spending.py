"""Spending of keys on tokens: how many tokens become one, and how much of a summary token each receives."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..group_tokens import cut_bands, group_factor


class Spending(NamedTuple):
    """Spending of a list of summary tokens on the tokens of a map.

    Attributes:
        group_size: how many tokens are merged into one where this token is, `r * t` (`Band.group_size` is `r`); int64.
        keys: how many summary tokens this token accounts for, the groups of its band over the tokens of its band. The
            sum over the tokens of a region is what the region receives, and over all tokens the length of the list.

    Shape:
        - both alike: `(B, N)` from `spend_tokens`, `(B, H, W)` from a model
    """

    group_size: Tensor
    keys: Tensor


def spend_tokens(ranking: Tensor, group_sizes: tuple[int, ...], *, token_budget: int | None = None) -> Spending:
    """Compute how finely `merge_tokens` represents each token, for visualization.

    Args:
        ranking: indices of the tokens from the least to the most significant, as from `rank_tokens`.
        group_sizes: group size of each band, from the least to the most significant.
        token_budget: as for `merge_tokens`.

    Shape:
        - ranking: `(B, N)`, int64
        - returns: `(B, N)` both

    Example:
        >>> spending = spend_tokens(torch.tensor([[3, 1, 0, 2]]), (2, 1))
        >>> spending.group_size.tolist(), spending.keys.tolist()
        ([[1, 2, 1, 2]], [[1.0, 0.5, 1.0, 0.5]])
    """
    bands = cut_bands(ranking.shape[1], group_sizes)
    t = group_factor(bands, token_budget)
    sizes = [size for band in bands for size in [band.group_size * t] * band.length]
    keys = [share for band in bands for share in [band.num_groups(t) / max(band.length, 1)] * band.length]

    def at_tokens(by_rank: list) -> Tensor:
        values = torch.tensor(by_rank, device=ranking.device).expand_as(ranking)
        return torch.empty_like(values, memory_format=torch.contiguous_format).scatter_(1, ranking, values)

    return Spending(at_tokens(sizes), at_tokens(keys))
