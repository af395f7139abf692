"""The Triton kernels of `depthwise_conv`."""

import pytest
import torch

from ops.kernels import DEVICE, cases, check_errors, nan_in_new_memory, needs_kernels
from sgformer.ops import depthwise_conv
from sgformer.ops.depthwise_conv import reference, triton

SIZES = [(1, 1, 1, 1), (2, 1, 7, 3), (1, 9, 1, 33), (2, 7, 7, 16), (1, 14, 13, 70), (3, 12, 21, 5)]


def inputs(B, H, W, c, dtype):
    x, grad = (torch.randn(B, H, W, c, dtype=torch.float64) for _ in range(2))
    weight, bias = torch.randn(c, 1, 3, 3, dtype=torch.float64) / 3, torch.randn(c, dtype=torch.float64)
    return [t.to(dtype).to(DEVICE) for t in (x, weight, bias, grad)]


def run(x, weight, bias, grad, **options):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    out = depthwise_conv(x, weight, bias, **options)
    return [out.detach(), *torch.autograd.grad(out, (x, weight, bias), grad)]


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float32, size) for size in cases(SIZES, SIZES[:4])),
        *((torch.bfloat16, size) for size in cases(SIZES, SIZES[2:3])),
        *((torch.float16, size) for size in cases(SIZES, [])),
    ],
)
@pytest.mark.parametrize(("residual", "gelu"), [(False, False), (True, True), (True, False), (False, True)])
def test_rule_of_errors(residual, gelu, dtype, size):
    options = {"residual": residual, "gelu": gelu}
    with nan_in_new_memory():
        x = inputs(*size, dtype)
        exact = run(*[t.double() for t in x], **options, backend="reference")
        plain = run(*x, **options, backend="reference")
        fast = run(*x, **options, backend="triton")
    check_errors(fast, plain, exact, ("out", "grad_x", "grad_weight", "grad_bias"))


@needs_kernels
@pytest.mark.parametrize("height", cases([1, 2, 7, 9], [1, 3]))
def test_segments_of_rows_and_strips_of_columns_fit_together(height, monkeypatch):
    monkeypatch.setattr(triton, "MIN_ROWS", 2)
    monkeypatch.setattr(triton, "TILE", 256)
    monkeypatch.setattr(triton, "BLOCK_CHANNELS", 64)
    x = inputs(1, height, 19, 20, torch.float32)
    for fast, plain in zip(
        *(run(*x, residual=True, gelu=True, backend=name) for name in ("triton", "reference")), strict=True
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_any_layout():
    x, weight, bias, grad = inputs(2, 9, 11, 12, torch.float32)
    expected = run(x, weight, bias, grad, backend="reference")
    part = torch.cat((x, x, x), -1)[..., 12:24]
    turned = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for laid in (part, turned):
        for actual, wanted in zip(run(laid, weight, bias, grad, backend="triton"), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_weights_may_be_more_precise_than_the_map():
    """As under autocast."""
    x, weight, bias, grad = inputs(2, 9, 11, 12, torch.float32)
    results = run(x.bfloat16(), weight, bias, grad.bfloat16(), gelu=True, backend="triton")
    assert [t.dtype for t in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, *cases([torch.bfloat16], [])])
def test_parts_of_the_backward_pass(dtype):
    x, weight, bias, grad = inputs(2, 9, 11, 12, dtype)
    for name, args in (
        ("gelu_gradient", (grad, x, weight, bias, True)),
        ("gradients", (grad, x, weight, True, (True, True, True))),
    ):
        exact = getattr(reference, name)(*(a.double() if torch.is_tensor(a) else a for a in args))
        plain, fast = getattr(reference, name)(*args), getattr(triton, name)(*args)
        check_errors(fast, plain, exact, [f"grad_{i}" for i in range(len(exact))])
        torch.library.opcheck(getattr(triton, name), args, test_utils=("test_schema", "test_faketensor"))


@needs_kernels
def test_custom_operator_keeps_its_contract():
    x, weight, bias, _ = inputs(2, 5, 6, 12, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._apply, (x.requires_grad_(), weight, bias, True, True), test_utils=tests)
