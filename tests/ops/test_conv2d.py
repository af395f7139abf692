"""`conv2d`, and the operator in which it hides from compilers."""

import pytest
import torch
import torch.nn.functional as F

from backbone import fill
from sgformer.ops import conv2d

CASES = [
    (3, 8, 3, 2, 1, 1),
    (8, 8, 3, 2, 1, 8),
    (6, 4, 1, 1, 0, 1),
]  # channels in and out, kernel, stride, padding, groups


def inputs(c_in, c_out, kernel, groups):
    x = torch.randn(2, c_in, 7, 9, dtype=torch.float64).to(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn(c_out, c_in // groups, kernel, kernel, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(("c_in", "c_out", "kernel", "stride", "padding", "groups"), CASES)
def test_both_ways_compute_the_same(c_in, c_out, kernel, stride, padding, groups):
    x, weight = inputs(c_in, c_out, kernel, groups)
    expected = F.conv2d(x, weight, None, stride, padding, 1, groups)
    hidden = torch.ops.sgformer.conv2d(x, weight, stride, padding, groups)
    grad = torch.randn_like(expected)
    for y in (conv2d(x, weight, None, stride=stride, padding=padding, groups=groups), hidden):
        torch.testing.assert_close(y, expected)
        for a, b in zip(
            *(torch.autograd.grad(t, (x, weight), grad, retain_graph=True) for t in (y, expected)), strict=True
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("needs_x", [True, False])
@pytest.mark.parametrize(("c_in", "c_out", "kernel", "stride", "padding", "groups"), CASES)
def test_operator_keeps_its_contract(c_in, c_out, kernel, stride, padding, groups, needs_x):
    x, weight = inputs(c_in, c_out, kernel, groups)
    args = (x.detach().requires_grad_(needs_x), weight, stride, padding, groups)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.sgformer.conv2d, args, test_utils=tests)


def test_a_compiler_sees_no_convolution():
    model, seen = fill.model("sgformer_test", num_classes=5), []

    def look(graph, _inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    with torch.no_grad():
        torch.compile(model, backend=look)(fill.image("compiled", 1, 64, 64))
    assert {target.removesuffix(".default") for target in seen if "conv" in target} == {"sgformer.conv2d"}
