"""The definition of `map_norm` in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from ..activation import gelu_


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    """The norm, and GELU where asked for; see `map_norm`."""
    y = F.group_norm(x.permute(0, 3, 1, 2), 1, weight, bias, eps).permute(0, 2, 3, 1)
    return gelu_(y) if gelu else y
