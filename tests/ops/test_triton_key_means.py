"""The Triton kernels of `key_mean_attention`."""

import pytest
import torch

from ops.kernels import DEVICE, cases, check_errors, check_frozen, nan_in_new_memory, needs_kernels
from sgformer.ops import key_mean_attention
from sgformer.ops.key_mean_attention import explain_backends, triton

SIZES = [  # B, a, N, M, d
    (1, 1, 1, 1, 8),
    (2, 3, 7, 49, 16),
    (3, 2, 49, 7, 1),
    (1, 2, 60, 63, 33),
    (1, 3, 147, 97, 32),
    (1, 1, 1050, 60, 12),
    (1, 1, 60, 147, 64),
    (1, 2, 40, 300, 16),  # more keys than a tile holds
    (1, 1, 70, 200, 32),
]


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
        (torch.bfloat16, "none"),
        *cases([(torch.bfloat16, "blind"), (torch.float16, "none")], []),
    ],
)
def test_rule_of_errors(dtype, size, mask):
    """At most twice the error of plain PyTorch in the same dtype, by the norm; NaN in new memory never shows."""
    with nan_in_new_memory():
        mask = make_mask(mask, *size[:4])
        x = inputs(*size, dtype)
        exact = run(*[t.double() for t in x], mask=mask, backend="reference")
        plain = run(*x, mask=mask, backend="reference")
        fast = run(*x, mask=mask, backend="triton")
    check_errors(fast, plain, exact, ("out", "key_mean", "grad_q", "grad_k", "grad_v"))


@needs_kernels
@pytest.mark.parametrize("keys", [30, 270])
def test_stretches_of_queries_add_up(monkeypatch, keys):
    monkeypatch.setattr(triton, "QUERIES_PER_PROGRAM", 128)
    monkeypatch.setattr(triton, "MIN_PROGRAMS", 1)
    x = inputs(1, 2, 400, keys, 16, torch.float32)
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
    torch.testing.assert_close(key_mean_attention(q, k[:, :, order], v, backend="triton")[1], mean[:, order], **close)


@needs_kernels
@pytest.mark.parametrize("keys", [30, 270])
def test_what_is_frozen_gets_no_gradient(keys):
    q, k, v, _ = inputs(1, 2, 60, keys, 16, torch.float32)
    check_frozen(lambda *x: key_mean_attention(*x, backend="triton")[0], q, k, v)


@needs_kernels
def test_custom_operators_keep_their_contract():
    q, k, v, _ = inputs(2, 2, 5, 6, 16, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(triton._apply, (q.requires_grad_(), k, v, 0.5, None), test_utils=tests)


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
