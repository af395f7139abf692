"""The definition of `group_regions` in plain PyTorch."""

import torch
from torch import Tensor

from ..rank_tokens import rank_tokens
from .cutting import Cut


def group(x: Tensor, significance: Tensor, cut: Cut) -> tuple[list[Tensor], Tensor]:
    """The members of each cell, and the tokens that each holds; see `group_regions`."""
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
