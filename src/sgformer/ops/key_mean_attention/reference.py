"""The definition of `key_mean_attention` in plain PyTorch."""

from typing import Any

import torch
from torch import Tensor

from ..attention.reference import scaled_scores

# Up to this many weights (64 MB in float32) keeping them all is cheaper than computing them twice.
MAX_WEIGHTS = 2**24
# Without a gradient, weights are of use only while they are in the cache.
MAX_CACHED_WEIGHTS = 2**22


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the mean of its weights over heads and queries; see `key_mean_attention`."""
    weights = attention_weights(q, k, scale, mask)
    out = weights.to(v.dtype) @ v
    key_sum = weights.detach().sum((1, 2))
    return out, key_sum / num_queries(q, mask)


def attention_weights(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """The weights `(B, a, N, M)`, in float32 or better; all zero for a query that may see no key."""
    scores = scaled_scores(q, k, scale)
    if mask is None:
        return scores.softmax(-1)
    # The least number and not -inf: a row of -inf only would turn into NaN, forward and backward.
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0)


def num_queries(q: Tensor, mask: Tensor | None) -> int | Tensor:
    """Over how many pairs of head and query the mean goes: `a * N`, or `(B, 1)` numbers where a mask hides some."""
    _, a, N, _ = q.shape
    if mask is None:
        return a * N
    sees = mask.any(-1)  # (B, a, N), each of them or 1
    shared = a * N // (sees.shape[1] * sees.shape[2])  # how many queries one entry speaks for
    return (sees.sum((1, 2)) * shared).clamp(min=1).unsqueeze(-1)


def why_slow(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: there are so many weights that keeping them all would cost memory or time."""
    B, a, N, _ = q.shape
    weights = B * a * N * k.shape[2]
    if weights > MAX_WEIGHTS:
        return f"it would keep {weights:,} attention weights, more than {MAX_WEIGHTS:,}"
    needs_weights = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if q.device.type == "cpu" and weights > MAX_CACHED_WEIGHTS and mask is None and not needs_weights:
        return f"it would write {weights:,} attention weights to memory and read them again, for no gradient"
    return None


def count_flops(q_shape: tuple[int, ...], k_shape: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    """Count the operations of the two products, a multiplication and an addition each, whatever a backend does more."""
    B, a, N, d = q_shape
    return 2 * 2 * B * a * N * k_shape[2] * d
