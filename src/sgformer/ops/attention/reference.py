"""The definition of `attention` in plain PyTorch, and its scores."""

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, with weights in float32 or better; see `attention`."""
    return scaled_scores(q, k, q.shape[-1] ** -0.5).softmax(-1).to(v.dtype) @ v


def scaled_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """`q @ k.mT * scale`, in float32 or better.

    Shape:
        - q: `(..., N, d)`; k: `(..., M, d)`
        - returns: `(..., N, M)`
    """
    return scaled_products(q, k, scale).to(torch.promote_types(q.dtype, torch.float32))


def scaled_products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Multiply in the precision of `q`, scaled before it is rounded: the range of float16 is soon exceeded."""
    *leading, N, d = q.shape
    M = k.shape[-2]
    unused = q.new_empty(())
    scores = torch.baddbmm(
        unused, q.reshape(-1, N, d), k.reshape(-1, M, d).transpose(1, 2), beta=0, alpha=scale
    )  # one pass less over the scores than a product and a factor
    return scores.view(*leading, N, M)
