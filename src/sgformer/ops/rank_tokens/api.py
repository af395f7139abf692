"""`rank_tokens`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, never, unless_exporting
from . import exportable, native, reference

# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.rank, never, unless_exporting),
    "native": Backend(native.rank, native.why_not, never),
    "reference": Backend(reference.rank, never, never),
}


def rank_tokens(significance: Tensor, *, backend: str = "auto") -> Tensor:
    """Indices of the tokens from the least to the most significant; ties keep their row-major order. No gradient.

    Args:
        significance: one number per token.
        backend: `"reference"`, `"exportable"` for exported programs, `"native"`, a kernel for a CPU, or `"auto"`.

    Shape:
        - significance: `(B, H, W)` or `(B, N)`
        - returns: `(B, N)`, int64

    Example:
        >>> import torch
        >>> rank_tokens(torch.tensor([[[3.0, 1.0], [2.0, 1.0]]])).tolist()
        [[1, 3, 2, 0]]
    """
    flat = significance.detach().flatten(1)
    return choose("rank_tokens", BACKENDS, backend, flat).run(flat)
