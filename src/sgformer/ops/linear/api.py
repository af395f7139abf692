"""`linear` and its gradient: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, explain, never
from . import convolution, native, reference

# The most preferred first.
BACKENDS = {
    "native": Backend(native.project, native.why_not, native.why_slow),
    "convolution": Backend(convolution.project, convolution.why_not, convolution.why_slow),
    "reference": Backend(reference.project, never, never),
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """`torch.nn.functional.linear`, as a convolution where that is faster.

    Args:
        x: what is projected.
        weight: the matrix.
        bias: what is added, if anything.
        backend: `"reference"`, PyTorch's own; `"convolution"`, through oneDNN on a CPU; `"native"`, a
            kernel for a CPU, where there is one; `"auto"` chooses, and `explain_backends` says why.

    Raises:
        ValueError: if the backend's name does not fit, or it cannot serve.

    Shape:
        - x: `(..., c)`; weight: `(c', c)`; bias: `(c',)`
        - returns: `(..., c')`

    Example:
        >>> import torch
        >>> linear(torch.ones(2, 5, 3), torch.ones(4, 3)).shape
        torch.Size([2, 5, 4])
    """
    return choose("linear", BACKENDS, backend, x, weight, bias).run(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient to `weight` of `linear(x, weight)`; that to `x` is `linear(grad, weight.t())`. Has none itself.

    Shape:
        - grad: `(..., c')`; x: `(..., c)`, of the same dtype
        - returns: `(c', c)`

    Example:
        >>> import torch
        >>> weight_gradient(torch.ones(2, 5, 4), torch.ones(2, 5, 3)).shape
        torch.Size([4, 3])
    """
    weight = grad.new_empty((grad.shape[-1], x.shape[-1]))  # nothing but its shape is used
    chosen = choose("linear", BACKENDS, "auto", x, weight, None)
    module = convolution if chosen is BACKENDS["convolution"] else reference
    return module.weight_gradient(grad, x)


def explain_backends(x: Tensor, weight: Tensor) -> dict[str, str]:
    """Ask each backend of `linear` whether it takes these inputs; `"auto"` uses the first that does."""
    return explain(BACKENDS, x, weight, None)
