"""`merge_tokens` by a kernel in C++: tokens are read where they are."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import native
from ..group_tokens import Band


def why_not(
    x: Tensor, ranking: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *counts: Any
) -> str | None:
    """None, or a sentence."""
    return native.objection((x, *weights, *biases), channels=x.shape[-1])


def merge(
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    bands: Sequence[Band],
    factor: int,
) -> Tensor:
    """Compute `reference.merge`."""
    length = sum(band.num_groups(factor) for band in bands)
    return native.merge_tokens(x, ranking.contiguous(), weights, biases, bands, length, factor)
