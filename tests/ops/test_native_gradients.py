"""Gradients by the kernels in C++: at most twice the error of plain PyTorch, and only where they can serve."""

import pytest
import torch

from ops.kernels import check_errors, check_frozen, nan_in_new_memory
from sgformer.ops import (
    attention,
    convolved_projection,
    depthwise_conv,
    key_mean_attention,
    map_norm,
    native,
    window_attention,
)
from sgformer.ops.native import library


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(library, "_library", None)
    if objection := native.use_kernels().objection:
        pytest.skip(objection)


def heads(B, a, N, d):
    """By head, as projections have them: all heads of a token are neighbours."""
    return torch.randn(B, N, a, d).transpose(1, 2)


def first(found):
    return found[0] if isinstance(found, tuple) else found


def check(op, inputs, **options):
    """What an op makes and its gradients, by kernels beside plain PyTorch, both against float64."""
    results = []
    for backend, dtype in (("native", torch.float32), ("reference", torch.float32), ("reference", torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        with nan_in_new_memory():
            out = first(op(*leaves, backend=backend, **options))
            wave = torch.linspace(-3, 3, out.numel(), dtype=torch.float64).sin().view_as(out)
            results.append([out.detach(), *torch.autograd.grad(out, leaves, wave.to(dtype))])
    check_errors(*results, ["out", *(f"grad of input {i}" for i in range(len(inputs)))])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("op", [attention, key_mean_attention])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 4, 196, 49, 32),
        (2, 3, 50, 147, 16),
        (1, 1, 97, 1050, 32),
        (3, 1, 1, 7, 16),
        (1, 1, 63, 60, 32),
        (1, 2, 7, 1, 32),
    ],
)
def test_attention(shape, op, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    B, a, N, M, d = shape
    check(op, [heads(B, a, n, d) for n in (N, M, M)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2, 14, 14, 4, 32), (1, 10, 9, 2, 16), (1, 3, 5, 1, 32), (1, 1, 1, 1, 16)])
def test_windows(shape, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    B, H, W, a, d = shape
    check(window_attention, [torch.randn(B, H, W, 3 * a * d)], num_heads=a)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(2, 14, 14, 64), (1, 5, 3, 32), (1, 1, 1, 16), (2, 61, 33, 80)])
def test_depthwise_conv(shape, gelu, residual, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    c = shape[-1]
    inputs = [torch.randn(*shape[:3], c + 16)[..., 16:], torch.randn(c, 1, 3, 3), torch.randn(c)]
    check(depthwise_conv, inputs, residual=residual, gelu=gelu)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 7, 32), (1, 1, 1, 16), (3, 28, 29, 64)])
def test_norm_of_a_map(shape, gelu, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    check(map_norm, [3 + torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])], gelu=gelu)


def test_gradients_of_a_convolution_are_the_same_with_any_number_of_threads(monkeypatch):
    inputs = [x.requires_grad_() for x in (torch.randn(1, 60, 31, 80), torch.randn(80, 1, 3, 3), torch.randn(80))]
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out = depthwise_conv(*inputs, residual=True, gelu=True, backend="native")
        found.append(torch.autograd.grad(out.square().sum(), inputs))
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_some_inputs_are_frozen():
    check_frozen(lambda *x: attention(*x, backend="native"), *(heads(1, 2, n, 16) for n in (9, 5, 5)))
    check_frozen(
        lambda *x: depthwise_conv(*x, residual=True, gelu=True, backend="native"),
        *(torch.randn(1, 4, 5, 16), torch.randn(16, 1, 3, 3), torch.randn(16)),
    )
    check_frozen(lambda *x: map_norm(*x, backend="native"), torch.randn(1, 4, 5, 16), torch.randn(16), torch.randn(16))


def test_a_gradient_that_is_one_number_for_all_is_taken():
    q, k, v = (heads(1, 2, n, 16).requires_grad_() for n in (9, 5, 5))
    grads = [torch.autograd.grad(attention(q, k, v, backend=name).sum(), v)[0] for name in ("native", "reference")]
    torch.testing.assert_close(*grads)


def test_the_mlp_takes_them_for_its_backward_pass(monkeypatch):
    shapes = (2, 5, 6, 32), (32, 1, 3, 3), (32,), (16, 32), (16,)
    inputs, calls = [torch.randn(shape).requires_grad_() for shape in shapes], []
    kernel = native.depthwise_gradient
    monkeypatch.setattr(native, "depthwise_gradient", lambda *x, **given: calls.append(0) or kernel(*x, **given))
    out = convolved_projection(*inputs)
    grads = torch.autograd.grad(out.square().sum(), inputs)
    assert len(calls) == 1
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(convolved_projection(*exact).square().sum(), exact)
    for actual, right in zip(grads, expected, strict=True):
        assert (actual - right).norm() <= 2e-6 * right.norm()


def test_there_is_no_second_derivative_and_none_in_bfloat16():
    q, k, v = (heads(1, 2, n, 16).requires_grad_() for n in (9, 5, 5))
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(attention(q, k, v, backend="native").sum(), q, create_graph=True)
    assert "gradient" in native.objection((q.bfloat16(),), gradient=True)
    assert "gradient" in native.objection((q,))
