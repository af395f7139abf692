"""The definition of `rank_tokens` in plain PyTorch."""

from torch import Tensor


def rank(significance: Tensor) -> Tensor:
    """Indices of the tokens in order, ties in row-major order; see `rank_tokens`.

    Shape:
        - significance: `(B, N)`
        - returns: `(B, N)`, int64
    """
    return significance.argsort(dim=1, stable=True)
