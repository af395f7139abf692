"""The Triton kernels of `merge_tokens`."""

import pytest
import torch

from ops.kernels import DEVICE, cases, check_errors, check_frozen, nan_in_new_memory, needs_kernels
from sgformer.ops import merge_tokens
from sgformer.ops.merge_tokens import triton

GROUP_SIZES = [(196, 56, 28), (49, 14, 7), (2, 1), (5, 3, 2)]


def inputs(N, group_sizes, dtype, B=2, c=5):
    x = torch.randn(B, N, c, dtype=torch.float64).to(dtype)
    ranking = torch.stack([torch.randperm(N) for _ in range(B)])
    weights = [torch.randn(r, dtype=torch.float64).to(dtype) / r**0.5 for r in group_sizes]
    biases = [torch.randn(1, dtype=torch.float64).to(dtype) for _ in group_sizes]
    return x.to(DEVICE), ranking.to(DEVICE), *([t.to(DEVICE) for t in ts] for ts in (weights, biases))


def run(x, ranking, weights, biases, **options):
    x, *parameters = (t.detach().requires_grad_() for t in (x, *weights, *biases))
    n = len(weights)
    out = merge_tokens(x, ranking, parameters[:n], parameters[n:], **options)
    grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
    grads = torch.autograd.grad(out, (x, *parameters), grad, allow_unused=True)
    grads = [torch.zeros_like(t) if g is None else g for t, g in zip((x, *parameters), grads, strict=True)]
    return out.detach(), grads[0], torch.cat(grads[1:])


@needs_kernels
@pytest.mark.parametrize("budget", [None, 3, 7])
@pytest.mark.parametrize("N", cases([1, 2, 3, 4, 7, 49, 60, 97, 1050], [1, 97]))
@pytest.mark.parametrize(
    ("dtype", "group_sizes"),
    [
        *((torch.float32, sizes) for sizes in GROUP_SIZES),
        *((torch.bfloat16, sizes) for sizes in cases(GROUP_SIZES, GROUP_SIZES[1:2])),
    ],
)
def test_rule_of_errors(dtype, N, group_sizes, budget):
    with nan_in_new_memory():
        x, ranking, weights, biases = inputs(N, group_sizes, dtype)
        double = (x.double(), ranking, [w.double() for w in weights], [b.double() for b in biases])
        exact = run(*double, token_budget=budget, backend="reference")
        plain = run(x, ranking, weights, biases, token_budget=budget, backend="reference")
        fast = run(x, ranking, weights, biases, token_budget=budget, backend="triton")
    check_errors(fast, plain, exact, ("out", "grad_x", "grad_parameters"))


@needs_kernels
def test_any_layout_and_more_channels_than_a_tile_is_wide():
    x, ranking, weights, biases = inputs(63, (5, 3, 2), torch.float32, c=96)
    expected = run(x, ranking, weights, biases, backend="reference")
    for laid in (x.mT.contiguous().mT, x.repeat_interleave(2, -1)[..., ::2]):
        for actual, wanted in zip(run(laid, ranking, weights, biases, backend="triton"), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@needs_kernels
def test_weights_may_be_more_precise_than_tokens():
    """As under autocast."""
    x, ranking, weights, biases = inputs(60, (5, 3, 2), torch.float32)
    out, grad_x, grad_parameters = run(x.bfloat16(), ranking, weights, biases, backend="triton")
    assert (out.dtype, grad_x.dtype, grad_parameters.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


@needs_kernels
def test_what_is_frozen_gets_no_gradient():
    x, ranking, weights, biases = inputs(20, (5, 3, 2), torch.float32)

    def merged(x, weight, bias):
        return merge_tokens(x, ranking, [weight, *weights[1:]], [bias, *biases[1:]], backend="triton")

    check_frozen(merged, x, weights[0], biases[0])


@needs_kernels
def test_custom_operator_keeps_its_contract():
    x, ranking, weights, biases = inputs(20, (5, 3, 2), torch.float32)
    args = (x.requires_grad_(), ranking, torch.cat(weights), torch.cat(biases), [5, 10, 5], [5, 3, 2], 1)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._apply, args, test_utils=tests)
