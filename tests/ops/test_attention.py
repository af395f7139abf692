"""All ways to attend to few keys give the same numbers, as far as their precision goes."""

import pytest
import torch
import torch.nn.functional as F

from sgformer.ops import attention, by_heads
from sgformer.ops.attention import anew, products
from sgformer.ops.attention.api import explain_backends
from sgformer.ops.float32 import is_fast


def results(function, inputs):
    inputs = [t.clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    out.sin().sum().backward()
    return [out.detach(), *(t.grad for t in inputs)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("N", "M"), [(1, 7), (49, 60), (97, 147), (1050, 7)])
def test_error_is_at_most_twice_that_of_the_plain_products(dtype, N, M):
    inputs = [torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (N, M, M)]
    inputs = [t.to(dtype) for t in inputs]
    exact = results(F.scaled_dot_product_attention, [t.double() for t in inputs])
    plain = results(lambda q, k, v: ((q @ k.mT).float() / 4).softmax(-1).to(q.dtype) @ v, inputs)
    if dtype == torch.float64:
        plain = [e + 1e-13 for e in exact]
    for fast, slow, e in zip(results(attention, inputs), plain, exact, strict=True):
        assert fast.dtype == dtype
        # A few rounding steps of room: plain products may hit the nearest number, and gradients cancel terms around 1.
        room = 4 * torch.finfo(dtype).eps * (1 + e.abs().max())
        assert (fast.double() - e).abs().max() <= 2 * (slow.double() - e).abs().max() + room


@pytest.mark.parametrize("tiles", [False, True])
def test_many_weights_go_to_the_fused_kernel(monkeypatch, tiles):
    called = []
    monkeypatch.setattr(products, "HAS_TILES", tiles)
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a: called.append(a[0].dtype) or fused(*a))
    few, many = torch.randn(1, 1, 8, 4), torch.randn(1, 1, 4200, 4)
    attention(*[few.bfloat16()] * 3)
    assert called == []
    attention(*[many.bfloat16()] * 3)  # 4200 * 4200 is more than 2^24
    attention(*[few.clone().requires_grad_()] * 3)
    assert called == [torch.bfloat16, torch.float32]
    with torch.no_grad():
        attention(*[few] * 3)  # float32 without a gradient
    assert len(called) == 2
    attention(*[torch.randn(1, 1, 128, 4).bfloat16()] * 3)
    assert len(called) == (3 if tiles else 2)


@pytest.mark.parametrize("as_convolution", [False, True])
def test_one_head_at_a_time_gives_what_the_fused_kernel_gives(as_convolution, monkeypatch):
    q, k, v = (torch.randn(2, n, 3, 8).transpose(1, 2) for n in (150, 70, 70))
    expected = F.scaled_dot_product_attention(q, k, v)
    monkeypatch.setattr(by_heads, "CHUNK_WEIGHTS", 70 * 40)
    monkeypatch.setattr(by_heads, "is_convolution", lambda *args: as_convolution)
    out, received = by_heads.attend(q, k, v, 8**-0.5)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(received.sum(1), torch.full((2,), 3.0 * 150, dtype=torch.float64), rtol=1e-5, atol=0)


def test_an_empty_batch_is_taken():
    q, k = torch.randn(0, 2, 1200, 8), torch.randn(0, 2, 1000, 8)
    assert attention(q, k, k).shape == (0, 2, 1200, 8)
    assert by_heads.attend(q, k, k, 1.0)[1].shape == (0, 1000)


def of_heads(*shapes, dtype):
    """Queries, keys and values that lie in memory as projections write them, for a gradient."""
    torch.manual_seed(0)
    return [torch.randn(B, n, a, d, dtype=dtype).transpose(1, 2).requires_grad_() for B, a, n, d in shapes]


@pytest.mark.parametrize("piece", [2**20, 100])
def test_weights_computed_once_more_give_the_gradients(piece, monkeypatch):
    monkeypatch.setattr(anew, "PIECE", piece)
    q, k, v = of_heads((3, 2, 9, 8), (3, 2, 5, 8), (3, 2, 5, 8), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, backend="anew"), (q, k, v))
    found = attention(q, k, v, backend="anew")
    torch.testing.assert_close(found, attention(q, k, v, backend="reference"), rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(found.sum(), q, create_graph=True)


def test_a_gradient_of_small_heads_takes_fast_products():
    q, k, v = of_heads((2, 2, 60, 32), (2, 2, 49, 32), (2, 2, 49, 32), dtype=torch.float32)
    with torch.no_grad():
        assert explain_backends(q, k, v)["anew"] != "yes"
    assert (anew.why_slow(q, k, v) is None) == is_fast()
    large = q.repeat(1, 1, 100, 1)
    assert anew.why_slow(large, large, large) is not None
    without_numbers = torch.empty(1, 2, 60, 32, device="meta", requires_grad=True)
    assert attention(without_numbers, without_numbers, without_numbers).shape == (1, 2, 60, 32)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_that_nobody_wants_are_not_computed(monkeypatch, wanted):
    asked = []
    compute = anew._gradients
    monkeypatch.setattr(anew, "_gradients", lambda *x, **given: asked.extend(out := compute(*x, **given)) or out)
    q, k, v = (torch.randn(2, 2, 9, 4, dtype=torch.float64, requires_grad=want) for want in wanted)
    plain = torch.autograd.grad(
        attention(q, k, v, backend="reference").sum(), [x for x in (q, k, v) if x.requires_grad]
    )
    found = torch.autograd.grad(attention(q, k, v, backend="anew").sum(), [x for x in (q, k, v) if x.requires_grad])
    torch.testing.assert_close(found, plain)
    assert tuple(gradient is not None for gradient in asked) == wanted
