"""`attention` for `torch.export`: two products and a softmax, which every runtime has."""

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `reference.attend` with operations that export."""
    return weights(q, k, q.shape[-1] ** -0.5).to(v.dtype) @ v


def weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """The weights `(B, a, N, M)`, in float32 or better."""
    scores = (q * scale) @ k.mT
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)
