"""`group_regions`: what one calls. The definition is in `reference.py`."""

import torch
from torch import Tensor

from ..merge_tokens import Spending
from . import reference
from .cutting import cut_map


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
    return reference.group(x, significance, cut)


def spend_regions(significance: Tensor, *, num_sizes: int, num_keys: int) -> Spending:
    """Tells what `group_regions` makes of each token, for people to look at.

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
