"""Tokens in the groups in which they are merged: a ranking cut in bands, and the members of each group."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Backend, choose, is_exporting, never, unless_exporting


class Band(NamedTuple):
    """A stretch of the ranking whose tokens are merged in groups of one size."""

    start: int
    length: int  # may be 0
    group_size: int  # `r`, how many members of a group the merging weighs

    def num_groups(self, factor: int = 1) -> int:
        """Count the groups of `group_size * factor` tokens that cover the band."""
        return -(-self.length // (self.group_size * factor))


def cut_bands(num_tokens: int, group_sizes: tuple[int, ...]) -> list[Band]:
    """Cuts a ranking into bands, from the least to the most significant; two meet at half, three at the outer quarters.

    Example:
        >>> [band.num_groups() for band in cut_bands(3136, (196, 56, 28))]
        [4, 28, 28]
    """
    if len(group_sizes) == 2:
        cuts = [num_tokens // 2]
    elif len(group_sizes) == 3:
        cuts = [num_tokens // 4, 3 * (num_tokens // 4)]
    else:
        raise ValueError(f"a ranking is cut into two or three bands, got group sizes {group_sizes}")
    starts, ends = [0, *cuts], [*cuts, num_tokens]
    return [Band(s, e - s, r) for s, e, r in zip(starts, ends, group_sizes, strict=True)]


def group_factor(bands: list[Band], budget: int | None) -> int:
    """The smallest `t` such that groups of `r * t` tokens give at most `budget` summary tokens; None for any number.

    Example:
        >>> bands = cut_bands(112_896, (196, 56, 28))
        >>> sum(b.num_groups() for b in bands), group_factor(bands, 196)
        (2160, 12)

    Raises:
        ValueError: if there are more bands than the budget has tokens.
    """
    if budget is None:
        return 1
    if budget < (num_bands := sum(band.length > 0 for band in bands)):
        raise ValueError(f"token_budget is {budget}; it must be at least {num_bands}, one token a band")
    # Rounding up only adds groups, so the answer is no smaller than without rounding.
    t = max(1, -(-sum(band.length // band.group_size for band in bands) // budget))
    while sum(band.num_groups(t) for band in bands) > budget:
        t += 1
    return t


def group_tokens(
    x: Tensor, ranking: Tensor, group_sizes: tuple[int, ...], *, token_budget: int | None = None, backend: str = "auto"
) -> list[Tensor]:
    """The members of each group of tokens that is merged into one, band by band.

    The ranking is cut into as many bands as there are group sizes (see `cut_bands`), and each band into groups of `r`
    consecutive tokens. The last group of a band, where it runs past the band's end, goes on from the band's own start.

    Args:
        x: tokens.
        ranking: indices of the tokens from the least to the most significant, as from `rank_tokens`.
        group_sizes: `r` of each band, from the least to the most significant.
        token_budget: the most groups that there may be, at least one a band. Where there would be more, each group
            holds `t` times as many tokens, and a member is the mean of `t` consecutive ones.
        backend: `"reference"`, `"exportable"` for exported programs, or `"auto"`.

    Raises:
        ValueError: if the budget is too small for one group a band, or shapes do not fit.

    Shape:
        - x: `(B, N, c)`
        - ranking: `(B, N)`, int64
        - returns: `(B, groups, r, c)` for each band; a band without tokens has no groups

    Example:
        >>> import torch
        >>> members = group_tokens(torch.arange(4.0).view(1, 4, 1), torch.tensor([[3, 1, 0, 2]]), (2, 1))
        >>> [band.flatten().tolist() for band in members]
        [[3.0, 1.0], [0.0, 2.0]]

    Source:
        The paper's "self-guided attention".
    """
    check(x, ranking, len(group_sizes), token_budget)
    args = (x, ranking, group_sizes, token_budget)
    return choose("group_tokens", BACKENDS, backend, *args).run(*args)


def check(x: Tensor, ranking: Tensor, num_bands: int, token_budget: int | None) -> None:
    """Raises ValueError where tokens, ranking and budget do not fit."""
    if not is_exporting() and (x.ndim != 3 or ranking.shape != x.shape[:2]):
        raise ValueError(
            f"tokens are (B, N, c) and their ranking (B, N), got {tuple(x.shape)} and {tuple(ranking.shape)}"
        )
    if token_budget is not None and token_budget < num_bands:
        raise ValueError(f"token_budget is {token_budget}; it must be at least {num_bands}, one token a band")


def _groups(x: Tensor, ranking: Tensor, group_sizes: tuple[int, ...], token_budget: int | None) -> list[Tensor]:
    """The definition."""
    bands = cut_bands(x.shape[1], group_sizes)
    factor = group_factor(bands, token_budget)
    return [members(x, ranking, band, factor) for band in bands]


def members(x: Tensor, ranking: Tensor, band: Band, factor: int) -> Tensor:
    """The members `(B, groups, r, c)` of the groups of a band, each the mean of `factor` tokens."""
    groups, r = band.num_groups(factor), band.group_size
    rank = band.start + torch.arange(groups * r * factor, device=x.device) % max(band.length, 1)
    index = ranking[:, rank].unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, index).unflatten(1, (groups, r, factor)).mean(3)


def _of_open_size(x: Tensor, ranking: Tensor, group_sizes: tuple[int, ...], token_budget: int | None) -> list[Tensor]:
    """For `torch.export`, where the number of tokens may be unknown."""
    B, N, _ = x.shape
    bands = cut_bands(N, group_sizes)
    factor = factor_for(bands, token_budget)
    tokens = x.flatten(0, 1)
    offset = torch.arange(B, device=x.device).unsqueeze(1) * N
    return [_members_of_open_size(tokens, ranking + offset, band, factor) for band in bands]


def _members_of_open_size(tokens: Tensor, ranking: Tensor, band: Band, t: Any) -> Tensor:
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


# The most preferred first.
BACKENDS = {"exportable": Backend(_of_open_size, never, unless_exporting), "reference": Backend(_groups, never, never)}
