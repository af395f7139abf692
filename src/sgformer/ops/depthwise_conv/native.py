"""`depthwise_conv` by a kernel in C++, with the residual and GELU in the same pass over the map."""

from torch import Tensor

from .. import native


def why_not(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence."""
    return native.objection((x, weight, bias), channels=x.shape[-1])


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """Compute `reference.convolve`."""
    return native.depthwise_conv(x, weight.contiguous(), bias, x if residual else None, gelu=gelu)
