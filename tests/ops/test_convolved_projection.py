"""`convolved_projection`: what it computes, and what it keeps for the backward pass."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from sgformer.ops import convolved_projection, depthwise_conv


def inputs(dtype, B=2, H=5, W=6, hidden=8, c=3):
    shapes = (B, H, W, hidden), (hidden, 1, 3, 3), (hidden,), (c, hidden), (c,)
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def plain(x, conv_weight, conv_bias, weight, bias):
    return F.linear(depthwise_conv(x, conv_weight, conv_bias, residual=True, gelu=True), weight, bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_is_what_the_parts_compute(dtype):
    args = inputs(dtype)
    grad = torch.randn(2, 5, 6, 3).to(dtype)
    results = []
    for function in (convolved_projection, plain):
        out = function(*args)
        results.append([out, *torch.autograd.grad(out, args, grad)])
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype is dtype
        eps = torch.finfo(dtype).eps
        assert (actual - expected).norm() <= 16 * eps * expected.norm()


def test_gradcheck():
    assert torch.autograd.gradcheck(convolved_projection, inputs(torch.float64, B=1, H=2, W=3, hidden=2, c=2))


def test_keeps_one_map_of_the_hidden_width():
    args = inputs(torch.float32, H=20, W=20)
    for function, most in ((convolved_projection, 1), (plain, 3)):
        kept = []
        with saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            function(*args)
        maps = {t.data_ptr() for t in kept if t.numel() == args[0].numel()}
        assert len(maps) <= most
        assert function is convolved_projection or len(maps) > 1


def test_under_autocast_gradients_have_the_precision_of_their_tensors():
    args = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = convolved_projection(args[0].bfloat16(), *args[1:])
    assert out.dtype is torch.bfloat16
    out.sum().backward()
    assert all(t.grad.dtype is torch.float32 for t in args)
    exact = [t.detach().double().requires_grad_() for t in args]
    plain(*exact).sum().backward()
    for low, high in zip(args, exact, strict=True):
        assert (low.grad - high.grad).norm() <= 0.03 * high.grad.norm()


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("wanted", range(6))
def test_only_gradients_that_are_wanted(wanted, prepared):
    args = [*inputs(torch.float64), torch.randn(8, 8, dtype=torch.float64)]
    tensors = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(args)]
    if wanted == 5 and not prepared:
        return
    x, *rest, first = tensors
    if prepared:
        ours = convolved_projection(x, *rest, prepare=F.linear, parameters=(first,))
        expected = plain(F.linear(x, first), *rest)
    else:
        ours, expected = convolved_projection(x, *rest), plain(x, *rest)
    results = [torch.autograd.grad(out.square().sum(), tensors[wanted])[0] for out in (ours, expected)]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_a_frozen_projection_costs_no_product():
    args = inputs(torch.float64)
    counts = []
    for frozen in (False, True):
        args[3].requires_grad_(not frozen)
        out = convolved_projection(*args)
        with FlopCounterMode(display=False) as counter:
            out.square().sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] - counts[1] == 2 * args[0].numel() * len(args[3])


def test_a_second_derivative_is_refused_rather_than_left_out():
    args = inputs(torch.float64)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(convolved_projection(*args).sum(), args, create_graph=True)
