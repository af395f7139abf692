"""`rank_tokens` and `merge_tokens`: the specification in loops, the rule for fast versions, and promises."""

import pytest
import torch

from backbone import plain
from sgformer.ops import merge_tokens, rank_tokens
from sgformer.ops.group_tokens import cut_bands, group_factor
from sgformer.ops.merge_tokens import api

# The others have files of their own: they take no float64.
BACKENDS = [name for name in api.BACKENDS if name not in ("triton", "native")]
GROUP_SIZES = [(196, 56, 28), (49, 14, 7), (2, 1), (5, 3, 2)]
# Empty bands (1, 2, 3), bands shorter than a group, ones that end within a group, and ones that do not.
NUM_TOKENS = [1, 2, 3, 4, 7, 49, 60, 63, 97, 147, 196, 784, 1050]
BUDGETS = [None, 3, 4, 7, 20, 147]


def inputs(N, group_sizes, B=2, c=3, dtype=torch.float64):
    x = torch.randn(B, N, c, dtype=torch.float64).to(dtype)
    weights = [torch.randn(r, dtype=torch.float64).to(dtype) for r in group_sizes]
    biases = [torch.randn(1, dtype=torch.float64).to(dtype) for _ in group_sizes]
    return x, torch.stack([torch.randperm(N) for _ in range(B)]), weights, biases


def run(x, ranking, weights, biases, **options):
    """The summary tokens, the gradient of the tokens, and that of all weights and biases as one vector."""
    x, *parameters = (t.detach().requires_grad_() for t in (x, *weights, *biases))
    n = len(weights)
    out = merge_tokens(x, ranking, parameters[:n], parameters[n:], **options)
    grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out.dtype)
    grads = torch.autograd.grad(out, (x, *parameters), grad, allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for t, g in zip((x, *parameters), grads, strict=True)]
    return out.detach(), grads[0], torch.cat(grads[1:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("N", NUM_TOKENS)
@pytest.mark.parametrize("group_sizes", GROUP_SIZES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_agrees_with_the_specification(backend, N, group_sizes, budget):
    x, ranking, weights, biases = inputs(N, group_sizes)
    expected = [
        torch.stack([tokens[t].T @ f + b for t, f, b in plain.groups(tokens, rank, group_sizes, pairs, budget)])
        for tokens, rank in zip(x, ranking.tolist(), strict=True)
        for pairs in [list(zip(weights, biases, strict=True))]
    ]
    actual = merge_tokens(x, ranking, weights, biases, token_budget=budget, backend=backend)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=1e-12)
    assert budget is None or actual.shape[1] <= budget


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("N", [1, 3, 60, 97, 1050])
@pytest.mark.parametrize("group_sizes", GROUP_SIZES)
@pytest.mark.parametrize("budget", [None, 7])
def test_rule_of_errors(backend, dtype, N, group_sizes, budget):
    x, ranking, weights, biases = inputs(N, group_sizes, dtype=dtype)
    double = (x.double(), ranking, [w.double() for w in weights], [b.double() for b in biases])
    exact = run(*double, token_budget=budget, backend="reference")
    simple = run(x, ranking, weights, biases, token_budget=budget, backend="reference")
    fast = run(x, ranking, weights, biases, token_budget=budget, backend=backend)
    for f, p, e in zip(fast, simple, exact, strict=True):
        assert f.dtype == dtype
        rounding = torch.finfo(dtype).eps * e.norm() * (64 if dtype is torch.float64 else 1)
        assert (f - e).norm() <= 2 * (p - e).norm() + rounding


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("budget", [None, 5])
def test_gradcheck(backend, budget):
    x, ranking, weights, biases = inputs(13, (5, 3, 2))
    parameters = [t.requires_grad_() for t in (x, *weights, *biases)]
    merge = lambda x, *p: merge_tokens(x, ranking, p[:3], p[3:], token_budget=budget, backend=backend)  # noqa: E731
    assert torch.autograd.gradcheck(merge, parameters)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_may_lie_in_any_layout(backend):
    x, ranking, weights, biases = inputs(60, (5, 3, 2), c=4)
    laid = x.mT.contiguous().mT
    assert not laid.is_contiguous()
    torch.testing.assert_close(*(merge_tokens(t, ranking, weights, biases, backend=backend) for t in (x, laid)))


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ties_keep_their_row_major_order(levels, dtype):
    significance = torch.randint(levels, (3, 40, 50)).to(dtype)
    for values, ranking in zip(significance.flatten(1).tolist(), rank_tokens(significance).tolist(), strict=True):
        assert ranking == sorted(range(2000), key=values.__getitem__)
    torch.testing.assert_close(rank_tokens(significance.mT.contiguous().mT), rank_tokens(significance))
    torch.testing.assert_close(rank_tokens(significance.flatten(1)), rank_tokens(significance))


def test_no_gradient_goes_through_the_ranking():
    significance = torch.randn(1, 4, 5, requires_grad=True)
    x, _, weights, biases = inputs(20, (2, 1), B=1)
    x.requires_grad_()
    merge_tokens(x, rank_tokens(significance), weights, biases).sum().backward()
    assert x.grad is not None
    assert significance.grad is None


@pytest.mark.parametrize("group_sizes", GROUP_SIZES)
def test_bands_cover_the_ranking_as_specified(group_sizes):
    for N in range(1, 300):
        bands = cut_bands(N, group_sizes)
        assert [rank for band in bands for rank in range(band.start, band.start + band.length)] == list(range(N))
        lengths = [N // 2, N - N // 2] if len(bands) == 2 else [N // 4, 2 * (N // 4), N - 3 * (N // 4)]
        assert [band.length for band in bands] == lengths
        assert tuple(band.group_size for band in bands) == group_sizes


@pytest.mark.parametrize(
    ("N", "group_sizes", "tokens"), [(3136, (196, 56, 28), 60), (784, (49, 14, 7), 60), (196, (2, 1), 147)]
)
def test_the_papers_numbers_of_summary_tokens(N, group_sizes, tokens):
    bands = cut_bands(N, group_sizes)
    assert sum(band.num_groups() for band in bands) == tokens
    assert group_factor(bands, tokens) == 1


@pytest.mark.parametrize("group_sizes", GROUP_SIZES)
def test_group_factor_is_the_smallest(group_sizes):
    for N in [*range(1, 60), 147, 784, 1050, 3136, 5000]:
        bands = cut_bands(N, group_sizes)
        for budget in [*range(3, 40), 60, 147, 500]:
            smallest = next(t for t in range(1, N + 2) if sum(b.num_groups(t) for b in bands) <= budget)
            assert group_factor(bands, budget) == smallest


def test_errors_say_what_was_received():
    x, ranking, weights, biases = inputs(20, (5, 3, 2))
    with pytest.raises(ValueError, match=r"\(2, 20, 3\) and \(2, 19\)"):
        merge_tokens(x, ranking[:, :19], weights, biases)
    with pytest.raises(ValueError, match="3 weights and 2 biases"):
        merge_tokens(x, ranking, weights, biases[:2])
    with pytest.raises(ValueError, match="token_budget is 2; it must be at least 3"):
        merge_tokens(x, ranking, weights, biases, token_budget=2)
    with pytest.raises(ValueError, match="token_budget is 2; it must be at least 3"):
        group_factor(cut_bands(20, (5, 3, 2)), 2)
    with pytest.raises(ValueError, match="two or three bands"):
        merge_tokens(x, ranking, weights[:1], biases[:1])
    with pytest.raises(ValueError, match="no backend 'fast'; choose one of auto, native, triton, gathered, reference"):
        merge_tokens(x, ranking, weights, biases, backend="fast")
