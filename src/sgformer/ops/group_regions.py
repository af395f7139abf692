"""Tokens in squares of the map, small ones where it is significant."""

from typing import NamedTuple

import torch
from torch import Tensor

from .merge_tokens import Spending
from .rank_tokens import rank_tokens


class Cut(NamedTuple):
    """A grid of coarse cells, and how many cells of each size are split into four."""

    rows: int
    columns: int
    splits: tuple[int, ...]  # of the coarse cells, then of the parts of these, and so on

    @property
    def finest(self) -> int:
        """Along a side, the number of smallest cells in a coarse one."""
        return 2 ** len(self.splits)

    @property
    def num_keys(self) -> int:
        """The number of cells in the end."""
        return self.rows * self.columns + 3 * sum(self.splits)


def cut_map(height: int, width: int, *, num_sizes: int, num_keys: int) -> Cut:
    """The grid of coarse cells of which about half are split, and how many splits there are keys for.

    Sides are in tokens, at least `2 ** (num_sizes - 1)`: the smallest cell holds a token. ValueError where the map is
    smaller, or an exporter leaves its size open.

    Example:
        >>> cut = cut_map(56, 56, num_sizes=3, num_keys=60)
        >>> cut, cut.num_keys
        (Cut(rows=4, columns=4, splits=(7, 7)), 58)
    """
    if not (isinstance(height, int) and isinstance(width, int)):  # an export with open sizes
        raise ValueError("merging by regions is exported for one size of images; name it, and leave no side open")
    finest = 2 ** (num_sizes - 1)
    if min(height, width) < finest or num_keys < 1:
        raise ValueError(
            f"a map of {height}x{width} tokens cannot be cut into {num_keys} cells of {num_sizes} sizes; it needs a "
            f"cell, and {finest} tokens a side"
        )
    grids = [
        _split(height // side or 1, width // side or 1, num_sizes, num_keys)
        for side in range(finest, max(height, width) + 1)
    ]
    grids = [cut for cut in grids if cut.num_keys <= num_keys]
    best = max(cut.num_keys for cut in grids)
    full = [cut for cut in grids if cut.num_keys > best - 3]  # a split costs 3 keys: these use as many as the best
    return min(full, key=lambda cut: abs(sum(cut.splits[:1]) / (cut.rows * cut.columns) - 0.5))


def _split(rows: int, columns: int, num_sizes: int, num_keys: int) -> Cut:
    """Makes as many splits as there are keys for, about the same number for each size."""
    cells, left, splits = rows * columns, max(0, num_keys - rows * columns) // 3, []
    for sizes_left in range(num_sizes - 1, 0, -1):
        splits.append(min(cells, -(-left // sizes_left)))
        left -= splits[-1]
        cells = 4 * splits[-1]
    return Cut(rows, columns, tuple(splits))


def group_regions(x: Tensor, significance: Tensor, *, num_sizes: int, num_keys: int) -> tuple[list[Tensor], Tensor]:
    """The members of each cell of a map that is cut finely where it is significant and coarsely elsewhere.

    The map is cut into a grid of coarse cells, as square and as even as can be (see `cut_map`). Those of the greatest
    mean significance are split into four, and the most significant of these parts again. Each cell has as many members
    as it could be split into: a member is the mean of the tokens of a smallest cell. No gradient goes through the
    choice, and ties go to the cell that is later in row-major order. Nothing depends on the rest of the batch.

    Args:
        x: tokens.
        significance: one number per token.
        num_sizes: how many sizes of cells there are.
        num_keys: the most cells in the end. There may be up to two fewer, since a split adds three, and fewer still
            where the map is small.

    Returns:
        For each size, from the coarsest on, the members of its cells, and for all cells in this order the number of
        tokens, int64.

    Raises:
        ValueError: if shapes do not fit, or the map has fewer than `2 ** (num_sizes - 1)` tokens along a side.

    Shape:
        - x: `(B, H, W, c)`
        - significance: `(B, H, W)`
        - returns: `(B, cells, 4 ** (num_sizes - 1 - i), c)` for each size `i`, and `(B, M)`

    Example:
        >>> import torch
        >>> x = torch.arange(16.0).view(1, 4, 4, 1)
        >>> cells, counts = group_regions(x, x[..., 0], num_sizes=2, num_keys=10)
        >>> [size.mean(2).flatten().tolist() for size in cells], counts.tolist()
        ([[2.5, 4.5], [8.0, 9.0, 12.0, 13.0, 10.0, 11.0, 14.0, 15.0]], [[4, 4, 1, 1, 1, 1, 1, 1, 1, 1]])
    """
    if x.ndim != 4 or significance.shape != x.shape[:3]:
        raise ValueError(
            f"a map is (B, H, W, c) and its significance (B, H, W), got {tuple(x.shape)} and "
            f"{tuple(significance.shape)}"
        )
    cut = cut_map(*x.shape[1:3], num_sizes=num_sizes, num_keys=num_keys)
    return _group(x, significance, cut)


def spend_regions(significance: Tensor, *, num_sizes: int, num_keys: int) -> Spending:
    """Compute how finely `group_regions` represents each token, for visualization.

    Shape:
        - significance: `(B, H, W)`
        - returns: `(B, H, W)` both

    Example:
        >>> spending = spend_regions(torch.arange(16.0).view(1, 4, 4), num_sizes=2, num_keys=10)
        >>> spending.group_size[0].tolist()
        [[4, 4, 4, 4], [4, 4, 4, 4], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    B, H, W = significance.shape
    cut = cut_map(H, W, num_sizes=num_sizes, num_keys=num_keys)
    rows, columns = cut.rows * cut.finest, cut.columns * cut.finest
    row, column = torch.arange(H) * rows // H, torch.arange(W) * columns // W
    number = (row[:, None] * columns + column).to(significance.device)  # of the smallest cell, (H, W)
    numbers = number.double().expand(B, -1, -1).unsqueeze(-1)
    cells, counts = group_regions(numbers, significance, num_sizes=num_sizes, num_keys=num_keys)
    lengths = [size.shape[1] for size in cells]
    held = torch.cat([size.flatten(1) for size in cells], 1).round().long()  # numbers of smallest cells, (B, h * w)
    sizes = [
        of_size.repeat_interleave(members.shape[2], 1)
        for of_size, members in zip(counts.split(lengths, 1), cells, strict=True)
    ]
    group_size = torch.empty_like(held).scatter_(1, held, torch.cat(sizes, 1))[:, number.flatten()].view(B, H, W)
    return Spending(group_size, 1 / group_size)


def _group(x: Tensor, significance: Tensor, cut: Cut) -> tuple[list[Tensor], Tensor]:
    """The members of each cell, and the tokens that each holds."""
    rows, row_counts = shares(x.shape[1], cut.rows * cut.finest, like=x)  # (h, H), (h,)
    columns, column_counts = shares(x.shape[2], cut.columns * cut.finest, like=x)
    members = torch.matmul(columns, torch.matmul(rows, x.flatten(2)).unflatten(2, x.shape[2:]))
    with torch.autocast(x.device.type, enabled=False):  # the ranking keeps its precision
        score = rows.to(significance) @ significance.detach() @ columns.to(significance).transpose(0, 1)
    counts = row_counts[:, None] * column_counts  # (h, w)
    members, score = nest(members, cut), nest(score.unsqueeze(-1), cut).squeeze(-1)  # (B, cells, r, c)
    counts = nest(counts.expand(len(x), -1, -1).unsqueeze(-1), cut).squeeze(-1)  # (B, cells, r)
    groups, sizes = [], []
    for num_splits in cut.splits:
        ranking = rank_tokens(score.mean(2))
        kept, split = ranking.split((ranking.shape[1] - num_splits, num_splits), 1)
        groups.append(take(members, kept))
        sizes.append(take(counts, kept).sum(2))
        members, score, counts = (
            take(cells, split).unflatten(2, (4, cells.shape[2] // 4)).flatten(1, 2)
            for cells in (members, score, counts)
        )
    return [*groups, members], torch.cat([*sizes, counts.sum(2)], 1)


def shares(length: int, num_parts: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix `(num_parts, length)` that averages each stretch, as even as can be, and how long each is."""
    part = torch.arange(length, device=like.device) * num_parts // length
    belongs = part == torch.arange(num_parts, device=like.device).unsqueeze(1)
    counts = belongs.sum(1)
    return (belongs / counts.unsqueeze(1)).to(like.dtype), counts


def nest(grid: Tensor, cut: Cut) -> Tensor:
    """A grid of the smallest cells, `(B, h, w, c)`, by the coarse cells that hold them: `(B, cells, r, c)`.

    Among the `r` in a coarse cell, those of a quarter are neighbours, and of a quarter of a quarter.
    """
    depth = len(cut.splits)
    grid = grid.unflatten(2, (cut.columns, *[2] * depth)).unflatten(1, (cut.rows, *[2] * depth))
    of_rows, of_columns = range(1, depth + 2), range(depth + 2, 2 * depth + 3)
    pairs = [axis for pair in zip(of_rows, of_columns, strict=True) for axis in pair]
    nested = grid.permute(0, *pairs, grid.ndim - 1)
    return nested.reshape(len(grid), cut.rows * cut.columns, cut.finest**2, grid.shape[-1])


def take(cells: Tensor, index: Tensor) -> Tensor:
    """Some of the cells `(B, cells, ...)` of each map, by their numbers `(B, n)`."""
    index = index.view(*index.shape, *[1] * (cells.ndim - 2))
    return cells.gather(1, index.expand(-1, -1, *cells.shape[2:]))
