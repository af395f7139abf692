"""Who looks at the spending sees what merging does: every group, and every summary token."""

import pytest
import torch

from backbone import fill
from sgformer.ops import merge_tokens, rank_tokens, spend_tokens


@pytest.mark.parametrize("sizes", [(196, 56, 28), (49, 14, 7), (2, 1)])
@pytest.mark.parametrize("num_tokens", [1, 5, 64, 196, 1050])
@pytest.mark.parametrize("budget", [None, 3, 20])
def test_keys_of_all_tokens_are_as_many_as_the_summary_tokens(sizes, num_tokens, budget):
    ranking = rank_tokens(torch.rand(2, num_tokens))
    spending = spend_tokens(ranking, sizes, token_budget=budget)
    weights, biases = [torch.ones(r) for r in sizes], [torch.zeros(1)] * len(sizes)
    summary = merge_tokens(torch.rand(2, num_tokens, 1), ranking, weights, biases, token_budget=budget)
    torch.testing.assert_close(spending.keys.sum(1), torch.full((2,), float(summary.shape[1])))
    assert spending.group_size.shape == spending.keys.shape == (2, num_tokens)


@pytest.mark.parametrize(("budget", "factor"), [(None, 1), (60, 1), (30, 2), (15, 4)])
def test_group_sizes_are_those_that_merging_uses(budget, factor):
    """At 28x28 tokens all bands divide evenly: a token's weight in the mean of its group is 1 over the group's size."""
    ranking = rank_tokens(torch.rand(1, 784))
    sizes = (49, 14, 7)
    weights, biases = [torch.full((r,), 1 / r) for r in sizes], [torch.zeros(1)] * 3
    x = torch.eye(784)[None]  # each token is a channel of its own
    summary = merge_tokens(x, ranking, weights, biases, token_budget=budget)
    spending = spend_tokens(ranking, sizes, token_budget=budget)
    torch.testing.assert_close(summary.amax(1)[0], 1 / spending.group_size[0])
    assert set(spending.group_size.unique().tolist()) == {r * factor for r in sizes}


def test_the_most_significant_tokens_are_in_the_smallest_groups():
    significance = torch.rand(1, 784)
    size = spend_tokens(rank_tokens(significance), (49, 14, 7)).group_size
    assert significance[size == 7].min() >= significance[size == 14].max()
    assert significance[size == 14].min() >= significance[size == 49].max()


@torch.no_grad()
def test_spending_follows_the_significance_and_the_budget():
    model, x = fill.model("sgformer_test"), fill.image("spending", 2, 224, 160)
    maps = model.forward_significance(x)
    for significance, spending in zip(maps, model.forward_spending(x), strict=True):
        assert spending.group_size.shape == spending.keys.shape == significance.shape
        for one, sizes in zip(significance, spending.group_size, strict=True):
            assert one[sizes == sizes.min()].min() >= one[sizes == sizes.max()].max()
    model.set_token_budget(16)
    for spending in model.forward_spending(x):
        assert float(spending.keys[0].sum()) <= 16 + 1e-3
