"""GELU where a map is of no further use."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_(x: Tensor) -> Tensor:
    """GELU in place where no gradient needs the input, else anew: a large map written once less."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.gelu(x)
    return torch.ops.aten.gelu_(x)
