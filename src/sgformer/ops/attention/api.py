"""`attention`: what one calls. The definition is in `reference.py`."""

import torch.nn.functional as F
from torch import Tensor

from ..dispatch import Backend, choose, explain, never, unless_exporting
from . import anew, exportable, native, products, reference


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.attend, never, unless_exporting),
    "native": Backend(native.attend, native.why_not, never),
    "anew": Backend(anew.attend, anew.why_not, anew.why_slow),
    "products": Backend(products.attend, never, products.why_slow),
    "sdpa": Backend(_fused, never, never),
    "reference": Backend(reference.attend, never, never),
}


def attention(q: Tensor, k: Tensor, v: Tensor, *, backend: str = "auto") -> Tensor:
    """Softmax attention with scale `d ** -0.5`.

    Args:
        q: queries.
        k: keys.
        v: values.
        backend: `"reference"`, the plain definition; `"sdpa"`, PyTorch's fused attention; `"products"`, two plain
            products in the precision of the inputs; `"anew"`, the same for a gradient, which computes the weights
            once more; `"native"`, a kernel for a CPU, where there is one. `"auto"` chooses, and `explain_backends` says
            why.

    Raises:
        ValueError: if the backend's name does not fit, or it cannot serve.

    Shape:
        - q: `(B, a, N, d)`
        - k, v: `(B, a, M, d)`
        - returns: `(B, a, N, d)`

    Example:
        >>> import torch
        >>> attention(torch.randn(2, 4, 100, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)).shape
        torch.Size([2, 4, 100, 8])
    """
    return choose("attention", BACKENDS, backend, q, k, v).run(q, k, v)


def explain_backends(q: Tensor, k: Tensor, v: Tensor) -> dict[str, str]:
    """Ask each backend of `attention` whether it takes these inputs; `"auto"` uses the first that does."""
    return explain(BACKENDS, q, k, v)
