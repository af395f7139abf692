"""Tokens in squares of the map, against loops over tokens."""

import numpy as np
import pytest
import torch

from sgformer.ops import group_regions, spend_regions
from sgformer.ops.group_regions import Cut, cut_map

SIZES = [(8, 8), (7, 9), (14, 14), (5, 41)]


def cells_by_loops(significance, cut):
    """The cells of one map, by size: each a list of its smallest cells in order, each a list of tokens."""
    H, W = significance.shape
    finest = cut.finest

    def tokens(row, column):
        """Of the smallest cell in this row and column of them."""
        return [
            (i, j)
            for i in range(H)
            for j in range(W)
            if i * cut.rows * finest // H == row and j * cut.columns * finest // W == column
        ]

    def smallest(row, column, side):
        """The smallest cells in a square of them, quarter by quarter."""
        if side == 1:
            return [tokens(row, column)]
        half = side // 2
        return [
            cell for down in (0, half) for right in (0, half) for cell in smallest(row + down, column + right, half)
        ]

    def score(cell):
        row, column, side = cell
        return np.mean([np.mean([significance[t] for t in held]) for held in smallest(row, column, side)])

    cells = [(i * finest, j * finest, finest) for i in range(cut.rows) for j in range(cut.columns)]
    found = []
    for num_splits in cut.splits:
        ranked = sorted(cells, key=score)  # stable
        kept, split = ranked[: len(cells) - num_splits], ranked[len(cells) - num_splits :]
        found.append([smallest(*cell) for cell in kept])
        cells = [
            (row + down, column + right, side // 2)
            for row, column, side in split
            for down in (0, side // 2)
            for right in (0, side // 2)
        ]
    return [*found, [smallest(*cell) for cell in cells]]


@pytest.mark.parametrize("num_sizes", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("num_keys", [1, 20])
def test_equals_loops_over_tokens(height, width, num_sizes, num_keys):
    x = torch.randn(2, height, width, 3, dtype=torch.float64)
    significance = torch.rand(2, height, width, dtype=torch.float64)
    found, counts = group_regions(x, significance, num_sizes=num_sizes, num_keys=num_keys)
    cut = cut_map(height, width, num_sizes=num_sizes, num_keys=num_keys)
    for b in range(2):
        expected = cells_by_loops(significance[b].numpy(), cut)
        assert [size.shape[1:3] for size in found] == [
            (len(size), 4 ** (num_sizes - 1 - i)) for i, size in enumerate(expected)
        ]
        assert counts[b].tolist() == [sum(map(len, cell)) for size in expected for cell in size]
        for size, cells in zip(found, expected, strict=True):
            for members, cell in zip(size[b], cells, strict=True):
                means = torch.stack([torch.stack([x[b, i, j] for i, j in held]).mean(0) for held in cell])
                torch.testing.assert_close(members, means)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_cells_hold_every_token_once_and_keep_to_the_number(height, width):
    for num_sizes in (1, 2, 3):
        for num_keys in range(1, 70):
            cut = cut_map(height, width, num_sizes=num_sizes, num_keys=num_keys)
            assert cut.num_keys <= num_keys
            assert cut.rows * cut.finest <= height  # no cell is empty
            assert cut.columns * cut.finest <= width
    x, significance = torch.randn(1, height, width, 2), torch.rand(1, height, width)
    _, counts = group_regions(x, significance, num_sizes=3, num_keys=30)
    assert counts.sum() == height * width
    assert counts.min() >= 1


def test_half_of_the_coarse_cells_are_split_and_nearly_all_keys_used():
    assert cut_map(56, 56, num_sizes=3, num_keys=60) == Cut(4, 4, (7, 7))  # 58
    assert cut_map(14, 14, num_sizes=2, num_keys=147) == Cut(7, 7, (32,))  # 145


def test_the_significant_place_is_cut_finely():
    significance = torch.zeros(1, 32, 32)
    significance[0, 24:28, 4:8] = 1
    size = spend_regions(significance, num_sizes=3, num_keys=20).group_size[0]
    assert (size[24:28, 4:8] == size.min()).all()
    assert size[0, 31] > size.min()


def test_spending_counts_the_keys():
    spending = spend_regions(torch.rand(2, 15, 22), num_sizes=3, num_keys=31)
    _, counts = group_regions(torch.zeros(2, 15, 22, 1), torch.rand(2, 15, 22), num_sizes=3, num_keys=31)
    torch.testing.assert_close(spending.keys.sum((1, 2)), torch.full((2,), float(counts.shape[1])))


def test_ties_go_to_the_later_cell():
    _, counts = group_regions(torch.zeros(1, 8, 8, 1), torch.ones(1, 8, 8), num_sizes=2, num_keys=7)
    assert counts.tolist() == [[16, 16, 16, 4, 4, 4, 4]]
    last = spend_regions(torch.ones(1, 8, 8), num_sizes=2, num_keys=7).group_size[0]
    assert (last[4:, 4:] == 4).all()


def test_the_rest_of_the_batch_changes_nothing():
    x, significance = torch.randn(3, 13, 17, 4), torch.rand(3, 13, 17)
    together, _ = group_regions(x, significance, num_sizes=3, num_keys=25)
    alone, _ = group_regions(x[1:2], significance[1:2], num_sizes=3, num_keys=25)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b)


def test_gradients_reach_tokens_and_no_significance():
    x = torch.randn(1, 6, 9, 2, dtype=torch.float64, requires_grad=True)
    significance = torch.rand(1, 6, 9, dtype=torch.float64, requires_grad=True)

    def cells(x):
        return tuple(group_regions(x, significance, num_sizes=2, num_keys=10)[0])

    assert torch.autograd.gradcheck(cells, (x,))
    torch.cat([size.flatten() for size in cells(x)]).sum().backward()
    assert significance.grad is None


def test_errors_name_what_does_not_fit():
    with pytest.raises(ValueError, match="3x8"):
        group_regions(torch.zeros(1, 3, 8, 1), torch.zeros(1, 3, 8), num_sizes=3, num_keys=9)
    with pytest.raises(ValueError, match="significance"):
        group_regions(torch.zeros(1, 8, 8, 1), torch.zeros(1, 8, 7), num_sizes=2, num_keys=9)
