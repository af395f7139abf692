"""`key_mean_attention`: what one calls. The definition is in `reference.py`."""

import torch
from torch import Tensor

from ..dispatch import Backend, choose, explain, never, unless_exporting
from . import chunked, exportable, native, reference, sdpa, triton

# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.attend, exportable.why_not, unless_exporting),
    "native": Backend(native.attend, native.why_not, never),
    "triton": Backend(triton.attend, triton.why_not, triton.why_slow),
    "sdpa": Backend(sdpa.attend, sdpa.why_not, sdpa.why_slow),
    "reference": Backend(reference.attend, never, reference.why_slow),
    "chunked": Backend(chunked.attend, never, never),
}


def key_mean_attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, mask: Tensor | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Attention that also reports the mean weight that each key receives, over all heads and queries.

    The key means carry no gradient: they measure, and are not trained. A query that may see no key at all gets zeros
    and does not count in the mean. Beyond that the means of an image sum to 1, and do not depend on the order of the
    queries. Only `reference` supports second derivatives.

    Args:
        q: queries.
        k: keys, of the same dtype.
        v: values, of the same dtype.
        scale: factor on the products of queries and keys; `d ** -0.5` if None.
        mask: boolean, True where a query may see a key, as in `torch.nn.functional.scaled_dot_product_attention`. Two
            dimensions, `(B, M)`, say which keys exist; four are broadcast to `(B, a, N, M)`.
        backend: `"reference"`, the plain definition; `"triton"`, kernels for GPUs; `"sdpa"`, PyTorch's fused attention
            and a second pass; `"chunked"`, a part of the queries at a time; `"native"`, a kernel for a CPU,
            where there is one. Only the first keeps a tensor of size `N * M`. `"auto"` chooses by device, dtype and
            size; `explain_backends` says why.

    Returns:
        The attention's output, and the key means in float32, or float64 for float64 queries.

    Raises:
        ValueError: if shapes, dtypes or the backend's name do not fit.

    Shape:
        - q: `(B, a, N, d)`
        - k, v: `(B, a, M, d)`
        - mask: `(B, M)`, or anything that broadcasts to `(B, a, N, M)`
        - out: `(B, a, N, d)`
        - key_mean: `(B, M)`

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(2, 4, 10, 8), torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)
        >>> out, key_mean = key_mean_attention(q, k, v)
        >>> out.shape, key_mean.shape
        (torch.Size([2, 4, 10, 8]), torch.Size([2, 5]))

    Source:
        The paper measures the significance of a token by the weight that it receives.
    """
    mask = _check(q, k, v, mask)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return choose("key_mean_attention", BACKENDS, backend, q, k, v, scale, mask).run(q, k, v, scale, mask)


def explain_backends(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> dict[str, str]:
    """Ask each backend of `key_mean_attention` whether it takes these inputs; `"auto"` uses the first that does.

    Example:
        >>> import torch
        >>> q = torch.empty(1, 8, 50_000, 32, device="meta")
        >>> explain_backends(q, q, q)["chunked"]
        'yes'
    """
    return explain(BACKENDS, q, k, v, 1.0, _check(q, k, v, mask))


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor | None:
    """Raises ValueError where the inputs do not fit; returns the mask with four dimensions."""
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(
            "key_mean_attention takes q (B, a, N, d) and k, v (B, a, M, d), "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in images, heads or channels of a head; "
            "only their third dimensions may differ"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v have dtypes {q.dtype}, {k.dtype}, {v.dtype}; give them one")
    if mask is None:
        return None
    if mask.dtype is not torch.bool:
        raise ValueError(f"mask is {mask.dtype}; give a boolean one, True where a query may see a key")
    B, a, N, M = *q.shape[:3], k.shape[2]
    if mask.ndim == 2 and mask.shape == (B, M):
        return mask[:, None, None, :]
    # Not `m in (1, n)`, which PyTorch 2.11 compiles wrongly for sizes that are variables.
    if mask.ndim == 4 and all(m == 1 or m == n for m, n in zip(mask.shape, (B, a, N, M), strict=True)):
        return mask
    raise ValueError(f"mask {tuple(mask.shape)} is neither (B, M) nor broadcast to (B, a, N, M) = {(B, a, N, M)}")
