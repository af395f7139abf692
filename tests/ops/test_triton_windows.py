"""The Triton kernels of `window_attention`."""

import subprocess
import sys

import pytest
import torch

from ops.kernels import DEVICE, check_errors, nan_in_new_memory, needs_kernels
from sgformer.ops import window_attention
from sgformer.ops.window_attention import explain_backends, triton

# B, H, W, heads, channels of a head
SIZES = [(1, 1, 1, 1, 8), (2, 7, 7, 2, 16), (1, 8, 3, 1, 12), (1, 14, 15, 3, 24), (2, 10, 7, 1, 33)]


def inputs(B, H, W, a, d, dtype):
    qkv, grad = (torch.randn(B, H, W, n * a * d, dtype=torch.float64) for n in (3, 1))
    return [t.to(dtype).to(DEVICE) for t in (2 * qkv, grad)]


def run(qkv, grad, **options):
    qkv = qkv.detach().requires_grad_()
    out, significance = window_attention(qkv, **options)
    assert not significance.requires_grad
    return [out.detach(), significance, *torch.autograd.grad(out, qkv, grad)]


@needs_kernels
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rule_of_errors(dtype, size):
    with nan_in_new_memory():
        x = inputs(*size, dtype)
        exact = run(*[t.double() for t in x], num_heads=size[3], backend="reference")
        plain = run(*x, num_heads=size[3], backend="reference")
        fast = run(*x, num_heads=size[3], backend="triton")
    check_errors(fast, plain, exact, ("out", "significance", "grad_qkv"))


@needs_kernels
def test_windows_of_another_size():
    x = inputs(1, 9, 10, 2, 16, torch.float32)
    for fast, plain in zip(
        *(run(*x, num_heads=2, size=4, backend=name) for name in ("triton", "reference")), strict=True
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    assert "81 tokens, more than 64" in explain_backends(x[0], num_heads=2, size=9)["triton"]


@needs_kernels
def test_the_new_name_of_a_setting():
    """Once it was used, PyTorch refuses to tell the old one; so in a process of its own."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this PyTorch knows the old name only")
    code = (
        "import torch; from sgformer.ops import tiles; torch.backends.cuda.matmul.fp32_precision = 'tf32'; "
        "print(tiles.constants()['PRECISION'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "tf32", done.stderr


@needs_kernels
def test_any_layout():
    qkv, grad = inputs(2, 9, 11, 2, 16, torch.float32)
    expected = run(qkv, grad, num_heads=2, backend="reference")
    part = torch.cat((qkv, qkv, qkv), -1)[..., 96:192]
    turned = qkv.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for laid in (part, turned):
        for actual, wanted in zip(run(laid, grad, num_heads=2, backend="triton"), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_custom_operator_keeps_its_contract():
    qkv, _ = inputs(1, 8, 7, 2, 16, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._apply, (qkv.requires_grad_(), 2, 7), test_utils=tests)
