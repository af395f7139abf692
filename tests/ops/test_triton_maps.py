"""The Triton kernels of `depthwise_conv` and `map_norm`, which take a map, and a weight and a bias for each channel."""

import pytest
import torch

from ops.kernels import DEVICE, cases, check_errors, check_frozen, nan_in_new_memory, needs_kernels
from sgformer.ops import depthwise_conv, map_norm
from sgformer.ops.depthwise_conv import reference
from sgformer.ops.depthwise_conv import triton as conv
from sgformer.ops.map_norm import triton as norm

CONV_SIZES = [(1, 1, 1, 1), (2, 1, 7, 3), (1, 9, 1, 33), (2, 7, 7, 16), (1, 14, 13, 70), (3, 12, 21, 5)]
NORM_SIZES = [(1, 1, 2, 1), (2, 7, 7, 3), (1, 9, 1, 33), (2, 14, 13, 70), (3, 50, 61, 16)]
NAMES = ("out", "grad_x", "grad_weight", "grad_bias")
both = pytest.mark.parametrize("op", [depthwise_conv, map_norm])


def inputs(op, B, H, W, c, dtype):
    x, grad = (torch.randn(B, H, W, c, dtype=torch.float64) for _ in range(2))
    weight, bias = (
        torch.randn(*size, dtype=torch.float64) for size in ((c, 1, 3, 3) if op is depthwise_conv else (c,), (c,))
    )
    x, weight = (x, weight / 3) if op is depthwise_conv else (2 * x + 1, 1 + weight / 2)
    return [t.to(dtype).to(DEVICE) for t in (x, weight, bias, grad)]


def run(op, x, weight, bias, grad, **options):
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    out = op(x, weight, bias, **options)
    return [out.detach(), *torch.autograd.grad(out, (x, weight, bias), grad)]


def check(op, x, **options):
    """The rule of errors."""
    exact = run(op, *[t.double() for t in x], **options, backend="reference")
    plain, fast = (run(op, *x, **options, backend=name) for name in ("reference", "triton"))
    check_errors(fast, plain, exact, NAMES)


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *((torch.float32, size) for size in cases(CONV_SIZES, CONV_SIZES[:4])),
        *((torch.bfloat16, size) for size in cases(CONV_SIZES, CONV_SIZES[2:3])),
        *((torch.float16, size) for size in cases(CONV_SIZES, [])),
    ],
)
@pytest.mark.parametrize(("residual", "gelu"), [(False, False), (True, True), (True, False), (False, True)])
def test_rule_of_errors_of_the_convolution(residual, gelu, dtype, size):
    with nan_in_new_memory():
        check(depthwise_conv, inputs(depthwise_conv, *size, dtype), residual=residual, gelu=gelu)


@needs_kernels
@pytest.mark.parametrize("size", cases(NORM_SIZES, NORM_SIZES[:4]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, *cases([torch.float16], [])])
@pytest.mark.parametrize("gelu", [False, True])
def test_rule_of_errors_of_the_norm(gelu, dtype, size):
    with nan_in_new_memory():
        check(map_norm, inputs(map_norm, *size, dtype), gelu=gelu)


@needs_kernels
def test_a_large_mean_costs_no_digits():
    x, *others = inputs(map_norm, 1, 40, 40, 16, torch.float32)
    check(map_norm, [x + 1000, *others], gelu=True)


@needs_kernels
@pytest.mark.parametrize("height", cases([1, 2, 7, 9], [1, 3]))
def test_segments_of_rows_and_strips_of_columns_fit_together(height, monkeypatch):
    monkeypatch.setattr(conv, "MIN_ROWS", 2)
    monkeypatch.setattr(conv, "TILE", 256)
    monkeypatch.setattr(conv, "BLOCK_CHANNELS", 64)
    x = inputs(depthwise_conv, 1, height, 19, 20, torch.float32)
    fast, plain = (run(depthwise_conv, *x, residual=True, gelu=True, backend=name) for name in ("triton", "reference"))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_programs_of_several_tiles_add_up(monkeypatch):
    monkeypatch.setattr(norm, "MIN_PROGRAMS", 2)
    monkeypatch.setattr(norm, "GRADIENT_TILE", 256)
    x = inputs(map_norm, 2, 17, 19, 20, torch.float32)
    fast, plain = (run(map_norm, *x, gelu=True, backend=name) for name in ("triton", "reference"))
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@needs_kernels
@both
def test_any_layout(op):
    x, *others = inputs(op, 2, 9, 11, 12, torch.float32)
    expected = run(op, x, *others, backend="reference")
    part = torch.cat((x, x, x), -1)[..., 12:24]
    turned = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for laid in (part, turned):
        torch.testing.assert_close(run(op, laid, *others, backend="triton"), expected, rtol=1e-4, atol=1e-5)


@needs_kernels
@both
def test_weights_may_be_more_precise_than_the_map(op):
    """As under autocast."""
    x, weight, bias, grad = inputs(op, 2, 9, 11, 12, torch.float32)
    results = run(op, x.bfloat16(), weight, bias, grad.bfloat16(), gelu=True, backend="triton")
    assert [t.dtype for t in results] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, *cases([torch.bfloat16], [])])
def test_parts_of_the_backward_pass(dtype):
    x, weight, bias, grad = inputs(depthwise_conv, 2, 9, 11, 12, dtype)
    for name, args in (
        ("gelu_gradient", (grad, x, weight, bias, True)),
        ("gradients", (grad, x, weight, True, (True, True, True))),
    ):
        exact = getattr(reference, name)(*(a.double() if torch.is_tensor(a) else a for a in args))
        plain, fast = getattr(reference, name)(*args), getattr(conv, name)(*args)
        check_errors(fast, plain, exact, [f"grad_{i}" for i in range(len(exact))])
        torch.library.opcheck(getattr(conv, name), args, test_utils=("test_schema", "test_faketensor"))


@needs_kernels
def test_what_is_frozen_gets_no_gradient():
    x, weight, bias, _ = inputs(map_norm, 2, 9, 11, 12, torch.float32)
    check_frozen(lambda *x: map_norm(*x, gelu=True, backend="triton"), x, weight, bias)


@needs_kernels
@pytest.mark.parametrize(
    ("op", "kernel", "options"), [(depthwise_conv, conv._apply, (True, True)), (map_norm, norm._apply, (1e-5, True))]
)
def test_custom_operators_keep_their_contract(op, kernel, options):
    x, weight, bias, _ = inputs(op, 2, 5, 6, 12, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(kernel, (x.requires_grad_(), weight, bias, *options), test_utils=tests)
