"""`depthwise_conv`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, explain, never
from . import native, reference, triton

# The most preferred first.
BACKENDS = {
    "native": Backend(native.convolve, native.why_not, never),
    "triton": Backend(triton.convolve, triton.why_not, triton.why_slow),
    "reference": Backend(reference.convolve, never, never),
}


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: bool = False,
    gelu: bool = False,
    backend: str = "auto",
) -> Tensor:
    """A 3x3 depthwise convolution of a map with channels last, padded with zeros.

    Args:
        x: the map.
        weight: a kernel for each channel, as `torch.nn.Conv2d` keeps it.
        bias: a number for each channel.
        residual: add the map itself.
        gelu: pass the sum through the exact GELU.
        backend: `"reference"`, the plain definition; `"triton"`, kernels for GPUs, which keep only the map for the
            backward pass; `"native"`, one for a CPU, where there is one; `"auto"` chooses, and `explain_backends` says
            why.

    Raises:
        ValueError: if shapes or the backend's name do not fit.

    Shape:
        - x, returns: `(B, H, W, c)`
        - weight: `(c, 1, 3, 3)`
        - bias: `(c,)`

    Example:
        >>> import torch
        >>> depthwise_conv(torch.ones(1, 4, 5, 8), torch.ones(8, 1, 3, 3), torch.zeros(8))[0, :2, :2, 0].tolist()
        [[4.0, 6.0], [6.0, 9.0]]
    """
    _check(x, weight, bias)
    args = (x, weight, bias, residual, gelu)
    return choose("depthwise_conv", BACKENDS, backend, *args).run(*args)


def gelu_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool) -> tuple[Tensor, Tensor]:
    """For whoever keeps only `x`: the gradient of what GELU takes, from that of what it gives; and the latter anew.

    `grad` is the gradient of `depthwise_conv(x, weight, bias, residual=residual, gelu=True)`.
    """
    if triton.why_not(x, weight, bias, residual, True) or triton.why_slow(x, weight, bias, residual, True):
        return reference.gelu_gradient(grad, x, weight, bias, residual)
    return triton.gelu_gradient(grad.to(x.dtype), x, weight, bias, residual)


def gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    *,
    residual: bool,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """For whoever keeps only `x`: gradients of map, kernel and bias of `depthwise_conv` without GELU, or None."""
    if not any(wanted):
        return None, None, None
    args = x, weight, weight, residual, False
    if triton.why_not(*args) or triton.why_slow(*args):
        found = reference.gradients(grad, x, weight, residual, wanted)
    else:
        found = triton.gradients(grad.to(x.dtype), x, weight, residual, list(wanted))
    of_x, of_weight, of_bias = (y if wants else None for y, wants in zip(found, wanted, strict=True))
    return of_x, of_weight, of_bias


def explain_backends(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, str]:
    """Ask each backend of `depthwise_conv` whether it takes these inputs; `"auto"` uses the first that does."""
    _check(x, weight, bias)
    return explain(BACKENDS, x, weight, bias, False, False)


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    c = x.shape[-1]
    if x.ndim != 4 or weight.shape != (c, 1, 3, 3) or bias.shape != (c,):
        raise ValueError(
            "depthwise_conv takes x (B, H, W, c), weight (c, 1, 3, 3) and bias (c,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
