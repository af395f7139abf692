"""`attention` by a kernel in C++: scores, softmax and the weighted sum of a few queries at a time, in the cache."""

from torch import Tensor

from .. import native
from ..by_heads import new_output


def why_not(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence."""
    if q.shape[-1] not in native.HEAD_SIZES:
        return f"heads have {q.shape[-1]} channels; it takes {native.HEAD_SIZES}"
    return native.objection((q, k, v))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `reference.attend`."""
    return native.attention(q, k, v, q.shape[-1] ** -0.5, new_output(q))
