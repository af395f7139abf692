"""Bands of a ranking and their numbers of summary tokens: arithmetic on counts."""

from typing import NamedTuple


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
    """
    if budget is None:
        return 1
    # Rounding up only adds groups, so the answer is no smaller than without rounding.
    t = max(1, -(-sum(band.length // band.group_size for band in bands) // budget))
    while sum(band.num_groups(t) for band in bands) > budget:
        t += 1
    return t
