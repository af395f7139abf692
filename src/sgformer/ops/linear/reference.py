"""The definition of `linear` in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias`; see `linear`."""
    return F.linear(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad.T @ x` over all that are projected, `(c', c)`; see `weight_gradient`."""
    return grad.flatten(0, -2).t() @ x.flatten(0, -2)
