"""`map_norm`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, explain, never
from . import native, reference, triton

# The most preferred first.
BACKENDS = {
    "native": Backend(native.normalize, native.why_not, never),
    "triton": Backend(triton.normalize, triton.why_not, triton.why_slow),
    "reference": Backend(reference.normalize, never, never),
}


def map_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-5, gelu: bool = False, backend: str = "auto"
) -> Tensor:
    """A norm over all tokens and channels of each map: `torch.nn.GroupNorm` of one group, with channels last.

    Args:
        x: maps.
        weight: what each channel is multiplied with after the norm.
        bias: what is added to each channel.
        eps: added to the variance.
        gelu: pass the result through the exact GELU.
        backend: `"reference"`, the plain definition; `"triton"`, kernels for GPUs, which keep only the map for the
            backward pass; `"native"`, one for a CPU, where there is one; `"auto"` chooses, and `explain_backends`
            says why.

    Raises:
        ValueError: if shapes or the backend's name do not fit.

    Shape:
        - x, returns: `(B, H, W, c)`
        - weight, bias: `(c,)`

    Example:
        >>> import torch
        >>> y = map_norm(3 + torch.randn(2, 9, 8, 4), torch.ones(4), torch.zeros(4))
        >>> bool(y.mean() < 1e-5), round(float(y.var()), 1)
        (True, 1.0)
    """
    _check(x, weight, bias)
    args = (x, weight, bias, eps, gelu)
    return choose("map_norm", BACKENDS, backend, *args).run(*args)


def explain_backends(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, str]:
    """Ask each backend of `map_norm` whether it takes these inputs; `"auto"` uses the first that does."""
    _check(x, weight, bias)
    return explain(BACKENDS, x, weight, bias, 1e-5, False)


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 4 or weight.shape != x.shape[3:] or bias.shape != x.shape[3:]:
        raise ValueError(
            "map_norm takes x (B, H, W, c), weight (c,) and bias (c,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
