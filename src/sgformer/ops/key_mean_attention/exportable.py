"""`key_mean_attention` for `torch.export`, where the numbers of queries and keys may be unknown."""

from torch import Tensor

from ..attention.exportable import weights


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`, without a mask."""
    received = weights(q, k, scale)
    return received.to(v.dtype) @ v, received.detach().mean((1, 2))


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: there is a mask."""
    return None if mask is None else "it takes no mask"
