"""`key_mean_attention` by the kernel of `attention`, which adds up what keys receive while weights are in the cache."""

import torch
from torch import Tensor

from .. import native
from ..attention.native import why_not as why_not_attention
from ..by_heads import new_output


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence."""
    return "it takes no mask" if mask is not None else why_not_attention(q, k, v)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend`."""
    key_mean = q.new_empty((q.shape[0], k.shape[2]), dtype=torch.float32)
    return native.attention(q, k, v, scale, new_output(q), key_mean), key_mean
