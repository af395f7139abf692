"""The definition of `group_tokens` in plain PyTorch."""

import torch
from torch import Tensor

from .bands import Band, cut_bands, group_factor


def group(x: Tensor, ranking: Tensor, group_sizes: tuple[int, ...], token_budget: int | None) -> list[Tensor]:
    """The members of each group; see `group_tokens`."""
    bands = cut_bands(x.shape[1], group_sizes)
    factor = group_factor(bands, token_budget)
    return [members(x, ranking, band, factor) for band in bands]


def members(x: Tensor, ranking: Tensor, band: Band, factor: int) -> Tensor:
    """The members `(B, groups, r, c)` of the groups of a band, each the mean of `factor` tokens."""
    groups, r = band.num_groups(factor), band.group_size
    rank = band.start + torch.arange(groups * r * factor, device=x.device) % max(band.length, 1)
    index = ranking[:, rank].unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, index).unflatten(1, (groups, r, factor)).mean(3)
