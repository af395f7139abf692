"""`depthwise_conv` on the CPU: against PyTorch's own layers, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from sgformer.ops import depthwise_conv


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
def test_is_what_the_layers_compute(residual, gelu, dtype):
    x = torch.randn(2, 5, 7, 6, dtype=dtype)
    weight, bias = torch.randn(6, 1, 3, 3, dtype=dtype), torch.randn(6, dtype=dtype)
    y = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), padding=1, groups=6)
    y = y.permute(0, 2, 3, 1) + (x.double() if residual else 0)
    y = F.gelu(y) if gelu else y
    actual = depthwise_conv(x, weight, bias, residual=residual, gelu=gelu)
    assert actual.dtype is dtype
    torch.testing.assert_close(actual.double(), y, rtol=8 * torch.finfo(dtype).eps, atol=16 * torch.finfo(dtype).eps)


def test_gradcheck():
    x, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((1, 3, 4, 2), (2, 1, 3, 3), (2,)))
    args = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: depthwise_conv(*t, residual=True, gelu=True), args)


def test_errors_say_what_was_received():
    with pytest.raises(ValueError, match=r"got \(1, 3, 4, 2\), \(2, 1, 5, 5\) and \(2,\)"):
        depthwise_conv(torch.ones(1, 3, 4, 2), torch.ones(2, 1, 5, 5), torch.ones(2))
