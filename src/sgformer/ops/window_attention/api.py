"""`window_attention`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, explain, never, unless_exporting
from . import edges_apart, exportable, native, reference, triton

# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.attend, never, unless_exporting),
    "native": Backend(native.attend, native.why_not, never),
    "triton": Backend(triton.attend, triton.why_not, triton.why_slow),
    "edges_apart": Backend(edges_apart.attend, edges_apart.why_not, edges_apart.why_slow),
    "reference": Backend(reference.attend, never, never),
}


def window_attention(qkv: Tensor, *, num_heads: int, size: int = 7, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Attention of each token to those of its window, and what each token receives in it.

    Windows are cut from the top left corner. At the right and bottom edges they hold the tokens that exist. What a
    token receives is the mean over the queries of its window and the heads of the weight it has, times the number of
    tokens in the window, so that its mean is 1. It carries no gradient.

    Args:
        qkv: queries, keys and values of a map of tokens; channels of all heads of the queries, then of the keys, then
            of the values.
        num_heads: `a`.
        size: side of a window in tokens.
        backend: `"reference"`, the plain definition; `"edges_apart"`, which masks only the windows that need it;
            `"triton"`, kernels for GPUs; `"native"`, a kernel for a CPU, where there is one; `"auto"` chooses, and
            `explain_backends` says why.

    Returns:
        The attention's output, and what tokens receive in float32, or float64 for a map in float64.

    Raises:
        ValueError: if shapes or the backend's name do not fit.

    Shape:
        - qkv: `(B, H, W, 3c)`
        - out: `(B, H, W, c)`
        - significance: `(B, H, W)`

    Example:
        >>> import torch
        >>> out, significance = window_attention(torch.randn(2, 10, 9, 24), num_heads=2)
        >>> out.shape, round(float(significance.mean()), 4)
        (torch.Size([2, 10, 9, 8]), 1.0)

    Source:
        The paper's "hybrid-scale attention", whose local half it is.
    """
    _check(qkv, num_heads)
    return choose("window_attention", BACKENDS, backend, qkv, num_heads, size).run(qkv, num_heads, size)


def explain_backends(qkv: Tensor, *, num_heads: int, size: int = 7) -> dict[str, str]:
    """Ask each backend of `window_attention` whether it takes these inputs; `"auto"` uses the first that does."""
    _check(qkv, num_heads)
    return explain(BACKENDS, qkv, num_heads, size)


def _check(qkv: Tensor, num_heads: int) -> None:
    if qkv.ndim != 4 or qkv.shape[-1] % (3 * num_heads):
        raise ValueError(
            f"window_attention takes qkv (B, H, W, 3 * c) with c a multiple of {num_heads} heads, "
            f"got {tuple(qkv.shape)}"
        )
