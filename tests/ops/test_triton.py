"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

from sgformer.ops import key_mean_attention
from sgformer.ops.key_mean_attention import explain_backends, triton

HERE = os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_kernels = pytest.mark.skipif(
    not HERE, reason="no GPU; a test here runs this file in Triton's interpreter"
)
SIZES = [  # B, a, N, M, d
    (1, 1, 1, 1, 8),
    (2, 3, 7, 49, 16),
    (3, 2, 49, 7, 1),
    (1, 2, 60, 63, 33),
    (1, 3, 147, 97, 32),
    (1, 1, 1050, 60, 12),
    (1, 1, 60, 147, 64),
]


@pytest.mark.skipif(
    HERE or triton.triton is None, reason="the kernels run in this very process, or triton is missing"
)
def test_this_file_in_the_interpreter():
    """The variable must be set before triton is imported for the first time, so it takes a fresh process."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line", __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def inputs(B, a, N, M, d, dtype=torch.float64):
    q, k, v, grad = (torch.randn(B, a, n, d, dtype=torch.float64) for n in (N, M, M, N))
    return [x.to(dtype).to(DEVICE) for x in (2 * q, k, v, grad)]


def make_mask(kind, B, a, N, M):
    if kind == "none":
        return None
    mask = {
        "keys": torch.rand(B, M) < 0.6,
        "windows": (torch.rand(B, N) < 0.6)[:, None, :, None] & (torch.rand(B, M) < 0.6)[:, None, None],
        "blind": torch.rand(B, a, N, M) < 0.6,
    }[kind]
    if kind == "blind":
        mask[0, :, : N // 2 + 1] = False
    return mask.to(DEVICE)


def run(q, k, v, grad, **options):
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out, key_mean = key_mean_attention(q, k, v, **options)
    return [out.detach(), key_mean, *torch.autograd.grad(out, (q, k, v), grad)]


@needs_kernels
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("dtype", "mask"),
    [
        *((torch.float32, mask) for mask in ("none", "keys", "windows", "blind")),
        *((torch.bfloat16, mask) for mask in ("none", "blind")),
        (torch.float16, "none"),
    ],
)
def test_rule_of_errors(dtype, size, mask):
    """At most twice the error of plain PyTorch in the same dtype, by the norm; NaN in new memory never shows."""
    torch.use_deterministic_algorithms(True)
    try:
        mask = make_mask(mask, *size[:4])
        x = inputs(*size, dtype)
        exact = run(*[t.double() for t in x], mask=mask, backend="reference")
        plain = run(*x, mask=mask, backend="reference")
        fast = run(*x, mask=mask, backend="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, f, p, e in zip(
        ("out", "key_mean", "grad_q", "grad_k", "grad_v"), fast, plain, exact, strict=True
    ):
        assert f.dtype == p.dtype
        # A rounding of each number; of gradients, differences that plain code cancels exactly at times, of their terms.
        size = max(e.abs().max(), 8) if name.startswith("grad") else e.abs().max()
        rounding = torch.finfo(f.dtype).eps * size * e.numel() ** 0.5
        assert (f - e).norm() <= 2 * (p - e).norm() + rounding, name


@needs_kernels
def test_stretches_of_queries_add_up(monkeypatch):
    monkeypatch.setattr(triton, "QUERIES_PER_PROGRAM", 128)
    x = inputs(1, 2, 400, 30, 16, torch.float32)
    for fast, plain in zip(run(*x, backend="triton"), run(*x, backend="reference"), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@needs_kernels
def test_any_layout():
    x = inputs(2, 3, 20, 30, 8, torch.float32)
    laid = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in x]
    strided = [t.repeat_interleave(2, -1)[..., ::2] for t in x]
    expected = run(*x, backend="triton")
    for other in (laid, strided):
        torch.testing.assert_close(run(*other, backend="triton"), expected, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_key_means():
    q, k, v, _ = inputs(2, 3, 147, 63, 16, torch.float32)
    mean = key_mean_attention(q.requires_grad_(), k, v, backend="triton")[1]
    order = torch.randperm(63, device=DEVICE)
    assert not mean.requires_grad
    close = {"rtol": 0, "atol": 20 * torch.finfo(torch.float32).eps}
    torch.testing.assert_close(mean.sum(1), torch.ones(2, device=DEVICE), **close)
    torch.testing.assert_close(
        key_mean_attention(q, k[:, :, order], v, backend="triton")[1], mean[:, order], **close
    )


@needs_kernels
def test_custom_operators_keep_their_contract():
    q, k, v, _ = inputs(2, 2, 5, 6, 16, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._forward, (q.requires_grad_(), k, v, 0.5, None), test_utils=tests)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_auto_takes_the_kernels_on_a_gpu():
    q = torch.empty(1, 2, 100, 32, device="cuda")
    assert explain_backends(q, q, q)["triton"] == "yes"
    assert "float64" in explain_backends(*[q.double()] * 3)["triton"]


def test_auto_leaves_the_kernels_alone_on_a_cpu():
    q = torch.empty(1, 2, 100, 32)
    assert explain_backends(q, q, q)["triton"] in (
        "triton is not installed",
        "its kernels run on GPUs, and the inputs are on 'cpu'",
        "Triton's interpreter is for tests",
    )
