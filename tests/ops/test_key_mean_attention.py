"""`key_mean_attention`: the reference against a loop, every backend against the reference, and what both promise."""

import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sgformer import ops
from sgformer.ops import by_heads, to_windows
from sgformer.ops.key_mean_attention import api, chunked

BACKENDS = list(api.BACKENDS)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
SIZES = [  # B, a, N, M, d
    (1, 1, 1, 1, 8),
    (2, 3, 7, 49, 16),
    (3, 5, 49, 7, 1),
    (2, 1, 60, 63, 33),
    (1, 7, 97, 60, 12),
    (2, 3, 147, 97, 32),
    (1, 3, 63, 147, 20),
    (1, 3, 1050, 60, 32),
    (1, 1, 60, 1050, 32),
]
MASKS = ["none", "keys", "pairs", "windows", "blind", "heads"]


def key_mean_attention(*args, **options):
    """The op; where a backend refuses the inputs, the test is skipped with its sentence."""
    try:
        return ops.key_mean_attention(*args, **options)
    except ValueError as error:
        if "cannot run on backend" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(params=[1, 500, 2**20], ids="chunks_of_{}".format)
def chunk_weights(request, monkeypatch):
    """Chunks of one query, of a few, and of several images."""
    monkeypatch.setattr(chunked, "CHUNK_WEIGHTS", request.param)
    return request.param


@pytest.fixture
def nan_memory():
    """What `empty` returns is NaN: an element that is read before it is written, or never written, shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def inputs(B, a, N, M, d, dtype=torch.float64):
    """Query, key, value, and a gradient of the output; scores far enough apart that weights are not all alike."""
    q, k, v, grad = (torch.randn(B, a, n, d, dtype=torch.float64) for n in (N, M, M, N))
    return [x.to(dtype) for x in (2 * q, k, v, grad)]


def make_mask(kind, B, a, N, M):
    def coins(*shape):
        return torch.rand(shape) < 0.6

    if kind == "none":
        return None
    if kind == "keys":
        mask = coins(B, M)
        mask[:, 0] = True
        return mask
    if kind == "pairs":
        return coins(1, 1, N, M)
    if kind == "windows":  # pairs of existing places, as HybridScaleAttention gives them; others see nothing
        return (coins(B, N)[:, :, None] & coins(B, M)[:, None])[:, None]
    mask = coins(B, 1, N, M) if kind == "blind" else coins(B, a, N, M)
    mask[0, :, : N // 2 + 1] = False
    return mask


def loop(q, k, v, scale=None, mask=None):
    """Attention a query at a time, in the words of the docstring."""
    B, a, N, d = q.shape
    M = k.shape[2]
    mask = torch.ones(1, 1, 1, M, dtype=torch.bool) if mask is None else mask
    mask = (mask[:, None, None] if mask.ndim == 2 else mask).expand(B, a, N, M)
    out, key_mean = q.new_zeros(B, a, N, d), q.new_zeros(B, M)
    for b in range(B):
        counted = 0
        for h in range(a):
            for n in range(N):
                seen = mask[b, h, n].nonzero().flatten().tolist()
                if not seen:
                    continue
                scores = torch.stack([q[b, h, n] @ k[b, h, m] for m in seen]) * (d**-0.5 if scale is None else scale)
                weights = scores.exp() / scores.exp().sum()
                out[b, h, n] = sum(w * v[b, h, m] for w, m in zip(weights, seen, strict=True))
                key_mean[b, seen] += weights
                counted += 1
        key_mean[b] /= max(counted, 1)
    return out, key_mean


def run(q, k, v, grad, **options):
    """out, key_mean and the three gradients."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out, key_mean = key_mean_attention(q, k, v, **options)
    return [out.detach(), key_mean, *torch.autograd.grad(out, (q, k, v), grad)]


def assert_obeys_the_rule(fast, plain, exact):
    """At most twice the error of plain PyTorch in the same dtype over all values, and four times at the worst one.

    The worst of so many roundings is a matter of luck, and another one on each processor. A rounding is allowed where
    plain PyTorch has none. In float64 plain PyTorch is the yardstick itself; there the order of the sums may cost some
    roundings.
    """
    for name, f, p, e in zip(("out", "key_mean", "grad_q", "grad_k", "grad_v"), fast, plain, exact, strict=True):
        assert f.dtype == p.dtype
        rounding = torch.finfo(f.dtype).eps * e.abs().max() * (64 if plain[0].dtype is torch.float64 else 1)
        assert (f - e).norm() <= 2 * (p - e).norm() + rounding * e.numel() ** 0.5, name
        assert (f - e).abs().max() <= 4 * (p - e).abs().max() + rounding, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_agrees_with_a_loop(backend, mask, scale):
    q, k, v, _ = inputs(2, 3, 7, 10, 4)
    mask = make_mask(mask, 2, 3, 7, 10)
    torch.testing.assert_close(
        key_mean_attention(q, k, v, scale=scale, mask=mask, backend=backend), loop(q, k, v, scale, mask)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.usefixtures("nan_memory")
def test_rule_of_errors(backend, dtype, size, mask, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_WEIGHTS", 5000)
    x, mask = inputs(*size, dtype), make_mask(mask, *size[:4])
    exact = run(*[t.double() for t in x], mask=mask, backend="reference")
    plain = run(*x, mask=mask, backend="reference")
    assert_obeys_the_rule(run(*x, mask=mask, backend=backend), plain, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errors_do_not_add_up_over_chunks(dtype, monkeypatch):
    """Some hundred chunks, as an image of 2048x2048 has them: what they add up loses no more than one sum does."""
    N, M = 20_000, 16
    monkeypatch.setattr(chunked, "CHUNK_WEIGHTS", 3 * M * N // 400)
    x = [t / 2 for t in inputs(1, 3, N, M, 16, dtype)]
    exact = run(*[t.double() for t in x], backend="reference")
    plain, fast = run(*x, backend="reference"), run(*x, backend="chunked")
    for f, p, e in zip(fast, plain, exact, strict=True):
        assert (f - e).norm() <= 2 * (p - e).norm()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.usefixtures("nan_memory")
def test_any_chunk_is_right(chunk_weights, mask):
    size = (3, 3, 11, 13, 8)
    x, mask = inputs(*size), make_mask(mask, *size[:4])
    for chunk, whole in zip(
        run(*x, mask=mask, backend="chunked"), run(*x, mask=mask, backend="reference"), strict=True
    ):
        torch.testing.assert_close(chunk, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_any_layout(backend, layout):
    size = (2, 3, 20, 30, 8)
    x, mask = inputs(*size), make_mask("windows", *size[:4])
    if layout == "transposed":  # as projections give them: (B, N, a, d)
        laid = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in x]
    elif layout == "expanded":
        x = [t[:, :1].expand_as(t).contiguous() for t in x]
        laid = [t[:, :1].expand_as(t) for t in x]
    else:
        laid = [t.repeat_interleave(2, -1)[..., ::2] for t in x]
    assert not any(t.is_contiguous() for t in laid)
    for actual, expected in zip(
        run(*laid, mask=mask, backend=backend), run(*x, mask=mask, backend=backend), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", MASKS)
def test_gradcheck(backend, mask, chunk_weights):
    size = (2, 3, 4, 5, 2)
    q, k, v, _ = (x.requires_grad_() for x in inputs(*size))
    mask = make_mask(mask, *size[:4])
    attend = lambda *x: key_mean_attention(*x, scale=0.7, mask=mask, backend=backend)[0]  # noqa: E731
    assert torch.autograd.gradcheck(attend, (q, k, v))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gradient_of_one_input_alone(backend, wanted):
    x = inputs(1, 2, 5, 6, 4)
    every = run(*x, backend=backend)[2 + wanted]
    x[wanted].requires_grad_()
    out, _ = key_mean_attention(*x[:3], backend=backend)
    torch.testing.assert_close(torch.autograd.grad(out, x[wanted], x[3])[0], every)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_key_means(backend, dtype):
    q, k, v, _ = (x.requires_grad_() for x in inputs(2, 3, 147, 63, 16, dtype))

    def key_mean(q, k):
        return key_mean_attention(q, k, v, backend=backend)[1]

    mean, order = key_mean(q, k), torch.randperm(63)
    accumulate = torch.promote_types(dtype, torch.float32)
    assert mean.dtype == accumulate
    assert not mean.requires_grad
    close = {"rtol": 0, "atol": 20 * torch.finfo(accumulate).eps}
    torch.testing.assert_close(mean.sum(1), torch.ones(2, dtype=accumulate), **close)
    torch.testing.assert_close(key_mean(q, k[:, :, order]), mean[:, order], **close)
    torch.testing.assert_close(key_mean(q[:, :, torch.randperm(147)], k), mean, **close)
    uniform = key_mean(torch.zeros_like(q), k)
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / 63), **close)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("nan_memory")
def test_what_a_mask_hides_has_no_say(backend, dtype):
    """Whatever stands in hidden keys and in queries that see nothing: the same numbers, zeros there, no gradient."""
    B, a, N, d = 4, 2, 49, 8
    exists = to_windows(torch.ones(1, 10, 9, 1))[1]
    mask = (exists[:, :, None] & exists[:, None, :])[:, None]
    hidden = ~exists[:, None, :, None].expand(B, a, N, d)
    x = inputs(B, a, N, N, d, dtype)
    results = [
        run(*[t.masked_fill(hidden, value) for t in x[:3]], x[3], mask=mask, backend=backend) for value in (0, 100)
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    for result in results:
        out, key_mean, *grads = result
        for t in (out, *grads):
            assert t.isfinite().all()
            assert (t[hidden] == 0).all()
        assert (key_mean[~exists] == 0).all()
        torch.testing.assert_close(key_mean.sum(1), torch.ones_like(key_mean[:, 0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_without_any_key_gives_zeros(backend):
    x = inputs(2, 2, 5, 6, 4)
    mask = torch.tensor([[True], [False]]).expand(2, 6)
    for t in run(*x, mask=mask, backend=backend):
        assert t.isfinite().all()
        assert (t[1] == 0).all()


class LargestTensor(TorchDispatchMode):
    """The most elements that any tensor has that an operation returns, those inside of custom operators included."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else [outputs]:
            if isinstance(output, torch.Tensor):
                self.numel = max(self.numel, output.numel())
        return outputs


@pytest.mark.parametrize("mask", [None, "keys", "queries"])
def test_chunked_never_makes_all_weights(mask, monkeypatch):
    """Watched inside of the operators too, where the dispatcher's hooks do not reach: there the chunks are counted."""
    B, a, N, M, d = 2, 3, 400, 300, 4
    monkeypatch.setattr(chunked, "CHUNK_WEIGHTS", 10_000)
    largest, calls, weights_of = 0, 0, chunked.attention_weights

    def watched(q, k, scale, mask):
        nonlocal largest, calls
        with LargestTensor() as seen:
            weights = weights_of(q, k, scale, mask)
        largest, calls = max(largest, seen.numel, weights.numel()), calls + 1
        return weights

    monkeypatch.setattr(chunked, "attention_weights", watched)
    masks = {None: None, "keys": torch.ones(B, M) > 0, "queries": torch.ones(B, 1, N, 1) > 0}
    x = inputs(B, a, N, M, d)
    with LargestTensor() as outside:
        run(*x, mask=masks[mask], backend="chunked")
    assert 0 < largest <= 10_000
    assert calls == 2 * B * -(
        -a * M * N // 9_900
    )  # 9,900 is the most whole queries of 900 weights; forward and backward
    assert outside.numel <= max(t.numel() for t in x)


def test_chunked_bounds_whole_process_memory():
    """A quarter of a gigabyte of weights, in a process that grows by less than 60 MB."""
    script = """
import resource, torch
from sgformer.ops import key_mean_attention
torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
q, k, v = (torch.randn(1, 1, n, 8, requires_grad=True) for n in (16, 16, 16))
key_mean_attention(q, k, v, backend="chunked")[0].sum().backward()
q, k, v = (torch.randn(1, 2, n, 8, requires_grad=True) for n in (8_000, 4_000, 4_000))
before = peak()
key_mean_attention(q, k, v, backend="chunked")[0].sum().backward()
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 60


@pytest.mark.parametrize("size", [(2, 3, 100, 30, 8), (1, 2, 7, 60, 12)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("as_convolution", [False, True])
@pytest.mark.usefixtures("nan_memory")
def test_one_head_at_a_time(size, dtype, as_convolution, monkeypatch):
    monkeypatch.setattr(by_heads, "CHUNK_WEIGHTS", 200)
    monkeypatch.setattr(by_heads, "is_convolution", lambda *args: as_convolution)
    monkeypatch.setattr(chunked, "MIN_HEAD_WEIGHTS", 1)
    x = inputs(*size, dtype)
    assert chunked._one_head_at_a_time(*x[:2])
    exact = run(*[t.double() for t in x], backend="reference")
    assert_obeys_the_rule(run(*x, backend="chunked"), run(*x, backend="reference"), exact)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_autocast_it_computes_in_the_dtype_of_its_inputs(backend):
    x = inputs(2, 2, 9, 7, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = key_mean_attention(*x[:3], backend=backend)
    assert inside[0].shape == x[0].shape
    torch.testing.assert_close(inside[1], key_mean_attention(*x[:3], backend=backend)[1], rtol=0, atol=1e-2)
    low = [t.bfloat16() for t in x]
    with torch.autocast("cpu", torch.bfloat16):
        result = run(*low, backend=backend)
    assert [t.dtype for t in result] == [torch.bfloat16, torch.float32, *[torch.bfloat16] * 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_break(backend):
    compiled = torch.compile(ops.key_mean_attention, fullgraph=True, backend="aot_eager")
    masked = backend != "sdpa"
    for N in (5, 9):
        q, k, v, grad = inputs(2, 2, N, 7, 4)
        mask = make_mask("windows", 2, 2, N, 7) if masked else None
        q.requires_grad_()
        key_mean_attention(q, k, v, mask=mask, backend=backend)  # skips, where it cannot serve
        results = []
        for attend in (compiled, key_mean_attention):
            out, key_mean = attend(q, k, v, mask=mask, backend=backend)
            assert not key_mean.requires_grad
            results.append((out, key_mean, *torch.autograd.grad(out, q, grad)))
        torch.testing.assert_close(*results)


def test_custom_operators_keep_their_contract():
    q, k, v, _ = inputs(2, 2, 5, 6, 4)
    torch.library.opcheck(chunked._forward, (q.requires_grad_(), k, v, 0.5, None))
    torch.library.opcheck(chunked._forward, (q, k, v, 0.5, make_mask("blind", 2, 2, 5, 6)))


@pytest.mark.parametrize("backend", ["chunked", "sdpa"])
def test_a_second_derivative_is_refused_rather_than_left_out(backend):
    q, k = (torch.randn(1, 2, n, 4, requires_grad=True) for n in (6, 3))
    out, _ = key_mean_attention(q, k, k, backend=backend)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(out.sum(), (q, k), create_graph=True)
    out, _ = key_mean_attention(q, k, k, backend="reference")
    (of_q,) = torch.autograd.grad(out.square().sum(), (q,), create_graph=True)
    of_q.square().sum().backward()
    assert k.grad.count_nonzero()
