"""`linear` and its gradients: the numbers of PyTorch's, as convolutions only where that is faster."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sgformer.ops import linear, weight_gradient
from sgformer.ops.linear.convolution import MIN_TOKENS, _mkl_is_slow, is_convolution

MODULE = importlib.import_module("sgformer.ops.linear.convolution")
SHAPES = [((16, 5), 7), ((2, 4, 6, 8), 16), ((2, 8, 33), 1)]


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def as_convolution(request, monkeypatch):
    """Every linear map is one, whatever processor this is."""
    for name, value in {"MKL_IS_SLOW": True, "MIN_TOKENS": 0, "MIN_PRODUCTS": 0}.items():
        monkeypatch.setattr(MODULE, name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)


class Calls(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def tensors(shape, width, dtype=torch.float32):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(width, shape[-1]), torch.randn(width)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, weight, bias)]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("shape", "width"), SHAPES)
def test_a_convolution_computes_what_linear_computes(shape, width, with_bias, as_convolution):
    results = []
    for function, dtype in ((linear, torch.float32), (F.linear, torch.float64)):
        x, weight, bias = tensors(shape, width, dtype)
        with Calls() as calls:
            y = function(x, weight, bias if with_bias else None)
        assert ("convolution" in calls.names) == (function is linear)
        assert y.is_contiguous()
        inputs = [x, weight, *([bias] if with_bias else [])]
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("shape", "width"), SHAPES)
def test_gradients_are_those_of_linear(shape, width, as_convolution):
    x, weight, _ = tensors(shape, width)
    grad = torch.randn(*shape[:-1], width)
    expected = torch.autograd.grad(F.linear(x, weight), (x, weight), grad)
    with torch.no_grad(), Calls() as calls:
        mine = linear(grad, weight.t()), weight_gradient(grad, x)
    assert {"convolution", "convolution_backward"} <= set(calls.names)
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-4)


def test_has_second_derivatives(as_convolution):
    x, weight, bias = tensors((16, 3), 2)
    (of_x,) = torch.autograd.grad(linear(x, weight, bias).pow(3).sum(), x, create_graph=True)
    (mine,) = torch.autograd.grad(of_x.square().sum(), weight)
    (of_x,) = torch.autograd.grad(F.linear(x, weight, bias).pow(3).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(of_x.square().sum(), weight)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_views_that_are_not_in_one_piece_are_taken(as_convolution):
    x = torch.randn(2, 6, 8, 4).transpose(1, 2)[..., 1:]
    weight = torch.randn(5, 3, 2)[..., 0]
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_stay_with_pytorch(dtype, as_convolution):
    x, weight, _ = tensors((64, 32), 32, dtype)
    assert not is_convolution(x, weight)


def test_autocast_transforms_traces_and_compilation_stay_with_pytorch(as_convolution):
    x, weight, bias = (tensor.detach() for tensor in tensors((16, 3), 2))
    assert is_convolution(x, weight)
    with torch.autocast("cpu"):
        assert linear(x, weight, bias).dtype is torch.bfloat16
    assert torch.func.vmap(linear, (0, None))(x[None], weight).shape == (1, 16, 2)
    traced = torch.jit.trace(lambda x: linear(x, weight), (x,), check_trace=False)
    assert "convolution" not in str(traced.graph)
    module = torch.nn.Linear(3, 2)
    module.forward = lambda x: linear(x, module.weight, module.bias)
    assert "conv" not in str(torch.export.export(module, (x,)).graph)


def test_few_tokens_and_small_products_stay_with_pytorch(monkeypatch):
    monkeypatch.setattr(MODULE, "MKL_IS_SLOW", True)
    weight = torch.zeros(512, 512)
    assert is_convolution(torch.zeros(MIN_TOKENS, 512), weight)
    assert not is_convolution(torch.zeros(MIN_TOKENS - 1, 512), weight)
    assert not is_convolution(torch.zeros(MIN_TOKENS, 8), weight[:8, :8])


@pytest.mark.parametrize("tokens", [160, 161, 175])
@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_cuts_into_sixteen_and_takes_what_is_left_over_apart(threads, tokens, monkeypatch):
    monkeypatch.setattr(MODULE, "MKL_IS_SLOW", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight, bias, grad = (torch.randn(shape) for shape in ((5, tokens, 128), (512, 128), (512,), (5, tokens, 512)))
    assert is_convolution(x, weight)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(linear(x, weight, bias).double(), exact, rtol=1e-4, atol=1e-4)
    of_weight = grad.double().flatten(0, 1).t() @ x.double().flatten(0, 1)
    torch.testing.assert_close(weight_gradient(grad, x).double(), of_weight, rtol=1e-3, atol=1e-3)


def test_only_amd_with_avx512_computes_so():
    amd, intel = "vendor_id : AuthenticAMD", "vendor_id : GenuineIntel"
    assert _mkl_is_slow(amd, "AVX512") == torch.backends.mkl.is_available()
    assert not _mkl_is_slow(amd, "AVX2")
    assert not _mkl_is_slow(intel, "AVX512")
