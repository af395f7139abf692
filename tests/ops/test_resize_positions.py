"""`resize_positions`: the products compute what PyTorch's resize does, and its gradient."""

import pytest
import torch

from sgformer.ops import resize_positions


@pytest.mark.parametrize("new", [(56, 56), (57, 56), (336, 84), (1, 3), (23, 400)])
def test_backends_agree(new):
    positions = torch.randn(1, 56 * 56, 5, dtype=torch.float64, requires_grad=True)
    of_output = torch.randn(1, new[0] * new[1], 5, dtype=torch.float64)
    outputs, gradients = [], []
    for backend in ("reference", "products"):
        outputs.append(resize_positions(positions, (56, 56), new, backend=backend))
        gradients.append(torch.autograd.grad(outputs[-1], positions, of_output)[0])
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


def test_low_precision_is_resized_in_float32():
    positions = torch.randn(1, 16, 3).bfloat16()
    ours, plain = (resize_positions(positions, (4, 4), (9, 7), backend=name) for name in ("products", "reference"))
    assert ours.dtype is torch.bfloat16
    assert (ours != plain).float().mean() < 0.05  # rounded once, from float32
