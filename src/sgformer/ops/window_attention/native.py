"""`window_attention` by a kernel in C++, window by window: nothing is cut out, padded or masked."""

from torch import Tensor

from .. import native


def why_not(qkv: Tensor, num_heads: int, size: int) -> str | None:
    """None, or a sentence."""
    if (d := qkv.shape[-1] // (3 * num_heads)) not in native.HEAD_SIZES:
        return f"heads have {d} channels; it takes {native.HEAD_SIZES}"
    return native.objection((qkv,))


def attend(qkv: Tensor, num_heads: int, size: int) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`."""
    out = qkv.new_empty((*qkv.shape[:3], qkv.shape[3] // 3))
    return out, native.window_attention(qkv, num_heads, size, out)
