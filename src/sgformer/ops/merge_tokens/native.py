"""`merge_tokens` by a kernel in C++: tokens are read where they are."""

from torch import Tensor

from .. import native
from .reference import Merging


def why_not(x: Tensor, ranking: Tensor, by: Merging) -> str | None:
    """None, or a sentence."""
    return native.objection((x, *by.weights, *by.biases), channels=x.shape[-1])


def merge(x: Tensor, ranking: Tensor, by: Merging) -> Tensor:
    """Compute `reference.merge`."""
    length = sum(band.num_groups(by.factor) for band in by.bands)
    return native.merge_tokens(x, ranking.contiguous(), *by[:3], length, by.factor)
