"""`linear_after` and `conv_after`: what they compute, and what they keep for the backward pass."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from sgformer.ops import conv_after, linear_after


def norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def normed_image(x, weight, bias):
    return F.gelu(F.group_norm(x, 1, weight, bias))


def inputs(*shape, channels, dtype=torch.float64):
    return [torch.randn(*s, dtype=dtype, requires_grad=True) for s in (shape, (channels,), (channels,))]


def linear(dtype=torch.float64):
    x, *of_norm = inputs(2, 3, 4, channels=4, dtype=dtype)
    last = [torch.randn(*s, dtype=dtype, requires_grad=True) for s in ((5, 4), (5,))]
    return (x, *of_norm, *last), (
        lambda x, g, b, weight, bias: linear_after(norm, x, (g, b), weight, bias),
        lambda x, g, b, weight, bias: F.linear(norm(x, g, b), weight, bias),
    )


def conv(dtype=torch.float64, groups=1):
    x, *of_norm = inputs(2, 4, 7, 6, channels=4, dtype=dtype)
    last = torch.randn(8, 4 // groups, 3, 3, dtype=dtype, requires_grad=True)
    numbers = {"stride": 2, "padding": 1, "groups": groups}
    return (x, *of_norm, last), (
        lambda x, g, b, weight: conv_after(normed_image, x, (g, b), weight, **numbers),
        lambda x, g, b, weight: F.conv2d(normed_image(x, g, b), weight, None, 2, 1, 1, groups),
    )


KINDS = {"linear": linear, "conv": conv, "conv in groups": functools.partial(conv, groups=4)}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind):
    args, functions = KINDS[kind]()
    results = []
    for function in functions:
        out = function(*args)
        grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out.detach(), *torch.autograd.grad(out, args, grad)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(functions[0], args)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_of_a_convolution_of_a_large_map(layout):
    """Which have a way of their own on a CPU."""
    x, weight = torch.randn(1, 64, 97, 96).to(memory_format=layout), torch.randn(64, 64, 3, 3) / 24
    x, weight = x.requires_grad_(), weight.requires_grad_()
    grad = torch.randn_like(x)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = torch.autograd.grad(F.conv2d(torch.relu(exact[0]), exact[1], padding=1), exact, grad.double())
    out = conv_after(torch.relu, x, (), weight, stride=1, padding=1, groups=1)
    for ours, plain in zip(torch.autograd.grad(out, (x, weight), grad), expected, strict=True):
        assert (ours - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept(kind):
    args, functions = KINDS[kind]()
    numbers = []
    for function in functions:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.setdefault(t.data_ptr(), t), lambda t: t
        ):
            out = function(*args)
        of_args = {t.data_ptr() for t in args}
        numbers.append(sum(t.numel() for pointer, t in kept.items() if pointer not in of_args))
        del out
    assert numbers[0] == 0
    assert numbers[1] >= args[0].numel()


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast(kind):
    """The backward pass, which is outside of it, prepares in the precision of the forward pass."""
    args, functions = KINDS[kind](torch.float32)
    results = []
    for function in functions:
        with torch.autocast("cpu", torch.bfloat16):
            out = function(*args)
        grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out.detach(), *torch.autograd.grad(out, args, grad)])
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == plain.dtype
        torch.testing.assert_close(ours, plain, rtol=2e-2, atol=5e-2)


def test_without_a_bias_and_where_only_the_weight_learns():
    x, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    linear_after(torch.tanh, x, (), weight, None).sum().backward()
    torch.testing.assert_close(weight.grad, x.tanh().sum(0).expand(5, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: y.square().sum()])
def test_a_second_derivative_is_refused_rather_than_left_out(kind, loss):
    args, functions = KINDS[kind]()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(loss(functions[0](*args)), args[:1], create_graph=True)


@pytest.mark.parametrize("wanted", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_only_gradients_that_are_wanted(kind, wanted):
    """Each by itself, and nothing is computed for the others."""
    args, functions = KINDS[kind]()
    if wanted >= len(args):
        return
    inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(args)]
    with FlopCounterMode(display=False) as forward:
        ours, plain = (function(*inputs) for function in functions)
    counts, gradients = [], []
    for out in (ours, plain):
        with FlopCounterMode(display=False) as counter:
            gradients.append(torch.autograd.grad(out.square().sum(), inputs[wanted])[0])
        counts.append(counter.get_total_flops())
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    assert forward.get_total_flops()
    assert counts[0] == counts[1]


def test_on_a_device_without_autocast():
    x, weight = torch.randn(2, 3, 4, device="meta", requires_grad=True), torch.randn(5, 4, device="meta")
    linear_after(F.silu, x, (), weight, None).sum().backward()
    assert x.grad is not None
    assert x.grad.device.type == "meta"


def test_autocast_in_the_backward_pass_changes_nothing():
    x, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4)
    (expected,) = torch.autograd.grad(linear_after(F.silu, x, (), weight, None).sum(), x)
    out = linear_after(F.silu, x, (), weight, None).sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(out, x)
    assert torch.equal(found, expected)
