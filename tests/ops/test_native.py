"""The kernels in C++: the numbers of the plain definitions, in float32 and bfloat16, and when they stand back."""

import pytest
import torch

import sgformer
from sgformer.ops import (
    attention,
    depthwise_conv,
    key_mean_attention,
    linear,
    map_norm,
    merge_tokens,
    native,
    rank_tokens,
    window_attention,
)
from sgformer.ops.depthwise_conv.reference import convolve
from sgformer.ops.linear import native as linear_native
from sgformer.ops.native import library

DTYPES = {torch.float32: 2e-6, torch.bfloat16: 5e-3}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """Kernels, for the test only; most of them are without gradients."""
    monkeypatch.setattr(library, "_library", None)
    if objection := native.use_kernels().objection:
        pytest.skip(objection)
    with torch.no_grad():
        yield


def close(found, expected, tolerance):
    found, expected = found.double(), expected.double()
    assert (found - expected).norm() <= tolerance * expected.norm()


def heads(B, a, N, d, dtype):
    """By head, as projections have them: all heads of a token are neighbours."""
    return torch.randn(B, N, a, d).to(dtype).transpose(1, 2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 4, 196, 49, 32), (2, 3, 50, 300, 16), (1, 1, 97, 1000, 32), (1, 1, 1, 1, 16)])
def test_attention_and_key_means(shape, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    B, a, N, M, d = shape
    q, k, v = (heads(B, a, n, d, dtype) for n in (N, M, M))
    exact = key_mean_attention(*(x.double() for x in (3 * q, k, v)), backend="reference")
    out, key_mean = key_mean_attention(3 * q, k, v, backend="native")
    close(out, exact[0], DTYPES[dtype])
    close(key_mean, exact[1], 1e-6)
    close(attention(3 * q, k, v, backend="native"), exact[0], DTYPES[dtype])


def test_attention_with_large_scores_and_with_nan():
    q, k, v = (heads(1, 2, n, 32, torch.float32) for n in (30, 300, 300))
    close(
        attention(200 * q, k, v, backend="native"),
        attention(*(x.double() for x in (200 * q, k, v)), backend="reference"),
        1e-4,
    )
    q[0, 0, 3, 5] = float("nan")
    out = attention(q, k, v, backend="native")
    assert out[0, 0, 3].isnan().all()
    assert out.isnan().any(-1).sum() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 14, 14, 4, 32), (1, 10, 9, 2, 16), (1, 3, 5, 1, 32)])
def test_windows(shape, dtype):
    B, H, W, a, d = shape
    qkv = torch.randn(B, H, W, 3 * a * d + 8).to(dtype)[..., 8:]
    exact = window_attention(qkv.double(), num_heads=a, backend="reference")
    out, significance = window_attention(qkv, num_heads=a, backend="native")
    close(out, exact[0], DTYPES[dtype])
    close(significance, exact[1], 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 14, 14, 64), (1, 5, 3, 32), (1, 1, 1, 16)])
def test_depthwise_conv(shape, dtype):
    c = shape[-1]
    x = torch.randn(*shape[:3], c + 16).to(dtype)[..., 16:]
    weight, bias = torch.randn(c, 1, 3, 3).to(dtype), torch.randn(c).to(dtype)
    for residual in (False, True):
        for gelu in (False, True):
            exact = convolve(x.double(), weight.double(), bias.double(), residual, gelu)
            found = depthwise_conv(x, weight, bias, residual=residual, gelu=gelu, backend="native")
            close(found, exact, DTYPES[dtype])


def test_depthwise_conv_of_some_rows_of_a_map():
    x, weight, bias = torch.randn(1, 9, 6, 32), torch.randn(32, 1, 3, 3), torch.randn(32)
    whole = native.depthwise_conv(x, weight, bias, None, gelu=False)
    for top, bottom in ((0, 4), (3, 7), (5, 9), (0, 9)):
        edges = {"above": top > 0, "below": bottom < 9}
        rows = native.depthwise_conv(x[:, top:bottom], weight, bias, None, gelu=False, **edges)
        assert torch.equal(rows, whole[:, top:bottom])


def test_ranking():
    x = torch.randn(3, 501)
    x[1] = x[1].round()  # ties
    x[2, :9] = torch.tensor([0.0, -0.0, 0.0, float("nan"), float("inf"), -float("inf"), -float("nan"), -0.0, 1e-42])
    assert torch.equal(rank_tokens(x, backend="native"), rank_tokens(x, backend="reference"))
    assert torch.equal(rank_tokens(x[:, 1:], backend="native"), rank_tokens(x[:, 1:], backend="reference"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "sizes", "budget"), [(196, (2, 1), None), (801, (49, 14, 7), 20), (1, (2, 1), None)])
def test_merging(N, sizes, budget, dtype):
    x = torch.randn(2, N, 32).to(dtype)
    ranking = torch.stack([torch.randperm(N) for _ in range(2)])
    weights, biases = ([torch.randn(n).to(dtype) for n in lengths] for lengths in (sizes, [1] * len(sizes)))
    exact = merge_tokens(
        x.double(),
        ranking,
        [w.double() for w in weights],
        [b.double() for b in biases],
        token_budget=budget,
        backend="reference",
    )
    found = merge_tokens(x, ranking, weights, biases, token_budget=budget, backend="native")
    close(found, exact, DTYPES[dtype])


@pytest.mark.parametrize(("rows", "c", "c_out"), [(196, 256, 192), (17, 16, 16), (400, 48, 96), (3, 2064, 80)])
def test_linear(rows, c, c_out):
    x, weight, bias = (torch.randn(n) for n in ((rows, c), (c_out, c), (c_out,)))
    exact = torch.nn.functional.linear(*(y.double() for y in (x, weight, bias)))
    close(linear(x, weight, bias, backend="native"), exact, 2e-6)


@pytest.mark.parametrize(("rows", "c", "c_out"), [(196, 256, 192), (400, 96, 96), (19, 2080, 80)])
def test_linear_in_bfloat16(rows, c, c_out):
    x, weight, bias = (torch.randn(n).bfloat16() for n in ((rows, c), (c_out, c), (c_out,)))
    if reason := linear_native.why_not(x, weight, bias):
        pytest.skip(reason)
    exact = torch.nn.functional.linear(*(y.double() for y in (x, weight, bias)))
    close(linear(x, weight, bias, backend="native"), exact, DTYPES[torch.bfloat16])


def test_linear_without_bias():
    x, weight = torch.randn(40, 32), torch.randn(48, 32)
    close(linear(x, weight, backend="native"), x.double() @ weight.double().t(), 2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gelu", [False, True])
def test_norm_of_a_map(gelu, dtype):
    x, weight, bias = (y.to(dtype) for y in (torch.randn(2, 9, 7, 32) + 3, torch.randn(32), torch.randn(32)))
    exact = map_norm(*(y.double() for y in (x, weight, bias)), gelu=gelu, backend="reference")
    close(map_norm(x, weight, bias, gelu=gelu, backend="native"), exact, DTYPES[dtype] / 2)


def test_when_kernels_stand_back(monkeypatch):
    x = torch.randn(2, 32)
    assert native.objection((x,)) is None
    with torch.enable_grad():
        assert "gradient" in native.objection((x.clone().requires_grad_(),))
    assert "float32" in native.objection((x.double(),))
    assert "neighbours" in native.objection((x.t(),))
    assert "16 channels" in native.objection((x,), channels=24)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in native.objection((x,))
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert "watches" in native.objection((x,))
    monkeypatch.setattr(library, "_library", None)
    assert "use_kernels" in native.objection((x,))


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "_library", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "SOURCE", tmp_path / "broken.cpp")
    (tmp_path / "broken.cpp").write_text("int main( {")
    library._compiled.cache_clear()
    assert "error" in sgformer.fast.use_kernels().objection
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    library._compiled.cache_clear()
    assert "CXX" in sgformer.fast.use_kernels().objection
    library._compiled.cache_clear()


def test_gelu_of_numbers_far_below_zero_stays_at_full_precision():
    """What is between that and zero, processors compute a hundred times as slowly."""
    bias = -torch.linspace(10, 60, 16)
    found = depthwise_conv(torch.zeros(1, 3, 3, 16), torch.zeros(16, 1, 3, 3), bias, gelu=True, backend="native")
    assert ((found == 0) | (found.abs() >= torch.finfo(torch.float32).tiny)).all()
    assert found.abs().max() < 1e-20
