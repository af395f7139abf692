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
    x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool = False, gelu: bool = False, backend: str = "auto"
) -> Tensor:
    """A 3x3 depthwise convolution of a map with channels last, padded with zeros.

    Args:
        x: the map.
        weight: a kernel for each channel, as `torch.nn.Conv2d` keeps it.
        bias: a number for each channel.
        residual: add the map itself.
        gelu: pass the sum through the exact GELU.
        backend: `"reference"`, the plain definition; `"triton"`, kernels for GPUs; `"native"`, one for a CPU, where
            there is one; both keep only the map for the backward pass; `"auto"` chooses, and `explain_backends` says
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


def gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    residual: bool,
    gelu: bool,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """For whoever keeps only `x`: what `depthwise_conv` made, anew, where GELU followed; and gradients that are wanted.

    These are of map, kernel and bias, from `grad`, that of what it made; None in the place of those not wanted.
    """
    args = x, weight, bias, residual, gelu
    if native.why_no_gradient(grad, *args) is None:
        out, *found = native.gradients(grad, *args)
    else:
        module = reference if triton.why_not(*args) or triton.why_slow(*args) else triton
        grad, out = grad if module is reference else grad.to(x.dtype), None
        if gelu:
            grad, out = module.gelu_gradient(grad, x, weight, bias, residual)
        found = module.gradients(grad, x, weight, residual, list(wanted)) if any(wanted) else (None, None, None)
    of_x, of_weight, of_bias = (y if wants else None for y, wants in zip(found, wanted, strict=True))
    return out, of_x, of_weight, of_bias


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
