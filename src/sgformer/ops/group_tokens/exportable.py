"""`group_tokens` for `torch.export`, where the number of tokens may be unknown."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .bands import Band, cut_bands, group_factor


def group(x: Tensor, ranking: Tensor, group_sizes: tuple[int, ...], token_budget: int | None) -> list[Tensor]:
    """Compute `reference.group` with operations that export."""
    B, N, _ = x.shape
    bands = cut_bands(N, group_sizes)
    factor = factor_for(bands, token_budget)
    tokens = x.flatten(0, 1)
    offset = torch.arange(B, device=x.device).unsqueeze(1) * N
    return [_members(tokens, ranking + offset, band, factor) for band in bands]


def _members(tokens: Tensor, ranking: Tensor, band: Band, t: Any) -> Tensor:
    """The members of a band's groups, of tokens `(B * N, c)` by their places `(B, N)` in order."""
    start, length, r = band
    if isinstance(length, int) and length == 0:
        return tokens.new_zeros(ranking.shape[0], 0, r, tokens.shape[1])
    groups = (length + r * t - 1) // (r * t)
    place = torch.arange(groups * r * t, device=tokens.device)
    # The last group goes on from the band's start. The length is a tensor because ONNX divides by no symbol.
    place = place % torch.full((1,), length, device=tokens.device) + start
    members = F.embedding(ranking.index_select(1, place), tokens)
    if isinstance(t, int) and t == 1:
        return members.unflatten(1, (groups, r))
    return members.unflatten(1, (groups, r, t)).mean(3)


def factor_for(bands: list[Band], budget: int | None) -> Any:
    """Compute `group_factor`, also where the lengths of bands are symbols: a number that the file computes."""
    if budget is None or all(isinstance(band.length, int) for band in bands):
        return group_factor(bands, budget)
    return as_size(count_factor(bands, budget))


def count_factor(bands: list[Band], budget: int) -> Tensor:
    """The number that `group_factor` searches, as a tensor without dimensions: one more than the factors that fail.

    The longer groups are, the fewer they are. So the factors that fail are all those below the answer.
    """
    most = sum(band.length // band.group_size + 1 for band in bands)  # with it each band is one group
    tried = torch.arange(1, most + 1)
    groups = torch.zeros_like(tried)
    for band in bands:
        members = band.group_size * tried
        groups = groups + (torch.full_like(tried, band.length) + members - 1) // members
    return (groups > budget).sum() + 1


def as_size(number: Tensor) -> Any:
    """A computed number, at least 1, as the length of something."""
    size = number.item()
    torch._check(size >= 1)
    return size
