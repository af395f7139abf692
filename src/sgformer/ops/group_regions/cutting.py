"""Into how many squares a map is cut, and how many of them are split: arithmetic on counts."""

from typing import NamedTuple


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
