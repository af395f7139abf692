"""The Triton kernels of `map_norm`."""

import pytest
import torch

from ops.kernels import DEVICE, cases, check_errors, check_frozen, nan_in_new_memory, needs_kernels
from sgformer.ops import map_norm
from sgformer.ops.map_norm import triton

SIZES = [(1, 1, 2, 1), (2, 7, 7, 3), (1, 9, 1, 33), (2, 14, 13, 70), (3, 50, 61, 16)]


def inputs(B, H, W, c, dtype):
    x, grad = (torch.randn(B, H, W, c, dtype=torch.float64) for _ in range(2))
    weight, bias = 1 + torch.randn(c, dtype=torch.float64) / 2, torch.randn(c, dtype=torch.float64)
    return [t.to(dtype).to(DEVICE) for t in (2 * x + 1, weight, bias, grad)]


def run(x, weight, bias, grad, **options):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    out = map_norm(x, weight, bias, **options)
    return [out.detach(), *torch.autograd.grad(out, (x, weight, bias), grad)]


@needs_kernels
@pytest.mark.parametrize("size", cases(SIZES, SIZES[:4]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *cases([torch.float16], [])])
@pytest.mark.parametrize("gelu", [False, True])
def test_rule_of_errors(gelu, dtype, size):
    with nan_in_new_memory():
        x = inputs(*size, dtype)
        exact = run(*[t.double() for t in x], gelu=gelu, backend="reference")
        plain = run(*x, gelu=gelu, backend="reference")
        fast = run(*x, gelu=gelu, backend="triton")
    check_errors(fast, plain, exact, ("out", "grad_x", "grad_weight", "grad_bias"))


@needs_kernels
def test_a_large_mean_costs_no_digits():
    x, weight, bias, grad = inputs(1, 40, 40, 16, torch.float32)
    x = x + 1000
    exact = run(*[t.double() for t in (x, weight, bias, grad)], gelu=True, backend="reference")
    plain = run(x, weight, bias, grad, gelu=True, backend="reference")
    fast = run(x, weight, bias, grad, gelu=True, backend="triton")
    check_errors(fast, plain, exact, ("out", "grad_x", "grad_weight", "grad_bias"))


@needs_kernels
def test_programs_of_several_tiles_add_up(monkeypatch):
    monkeypatch.setattr(triton, "MIN_PROGRAMS", 2)
    monkeypatch.setattr(triton, "GRADIENT_TILE", 256)
    x = inputs(2, 17, 19, 20, torch.float32)
    for fast, plain in zip(*(run(*x, gelu=True, backend=b) for b in ("triton", "reference")), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_any_layout():
    x, weight, bias, grad = inputs(2, 9, 11, 12, torch.float32)
    expected = run(x, weight, bias, grad, backend="reference")
    turned = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for actual, wanted in zip(run(turned, weight, bias, grad, backend="triton"), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_weights_may_be_more_precise_than_the_map():
    """As under autocast."""
    x, weight, bias, grad = inputs(2, 9, 11, 12, torch.float32)
    results = run(x.bfloat16(), weight, bias, grad.bfloat16(), gelu=True, backend="triton")
    assert [t.dtype for t in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


@needs_kernels
def test_what_is_frozen_gets_no_gradient():
    x, weight, bias, _ = inputs(2, 9, 11, 12, torch.float32)
    check_frozen(lambda *x: map_norm(*x, gelu=True, backend="triton"), x, weight, bias)


@needs_kernels
def test_custom_operator_keeps_its_contract():
    x, weight, bias, _ = inputs(2, 5, 6, 12, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._apply, (x.requires_grad_(), weight, bias, 1e-5, True), test_utils=tests)
