"""What self-guided attention ranks tokens by: the significance that was measured, or an order that ignores the picture.

The other two orders are there to tell what significance is worth. They cost the same and use the same weights, and
give a list of the same length; they only choose otherwise which tokens are merged finely and which coarsely. Both are
functions of the size of the map alone, so a prediction does not depend on the rest of the batch.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..ops import rank_tokens

Guidance = Literal["significance", "uniform", "random"]


def check_guidance(guidance: str) -> None:
    """Raises ValueError unless there is guidance of this name."""
    if guidance not in get_args(Guidance):
        raise ValueError(f"guidance is {guidance!r}; choose 'significance', 'uniform' or 'random'")


def ranking_of(significance: Tensor, guidance: Guidance, num_bands: int, *, seed: int = 0) -> Tensor:
    """The order in which tokens are merged, from the one that counts least.

    Args:
        significance: what was measured; only its shape and device matter unless it guides.
        guidance: `"significance"`; `"uniform"`, in which each band takes every second or fourth token along a curve
            that fills the map, and groups are neighbours on that curve; `"random"`, an order drawn once.
        num_bands: 2 or 3; bands meet at a half of the order, or at a quarter and three quarters.
        seed: decides the random order.

    Shape:
        - significance: `(B, H, W)`
        - returns: `(B, N)`, int64
    """
    if guidance == "significance":
        return rank_tokens(significance)
    B, H, W = significance.shape
    if guidance == "uniform":
        order = uniform_order(H, W, num_bands, device=significance.device)
    else:
        order = random_order(H * W, seed, device=significance.device)
    return order.repeat(B, 1)


def uniform_order(height: int, width: int, num_bands: int, *, device: torch.device | None = None) -> Tensor:
    """Tokens in an order in which every band, and within it every group, is spread evenly over the map.

    The tokens stand along a Z-curve, which keeps neighbours together. Of two bands each takes every second token of
    it; of three the outer ones take every fourth, and the middle one the two between.

    Shape:
        - returns: `(height * width,)`, int64

    Example:
        >>> uniform_order(4, 4, 2).tolist()
        [0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15]
    """
    token = torch.arange(height * width, device=device)
    row, column = token // width, token % width
    curve = torch.zeros_like(token)
    for bit in range(15):  # of maps up to 32,768 tokens a side
        curve = curve + ((row >> bit & 1) << (2 * bit + 1)) + ((column >> bit & 1) << (2 * bit))
    along = curve.argsort(stable=True)
    band = token % 2 if num_bands == 2 else (token % 4 + 1) // 2  # of places on the curve: 0, 1, 1, 2
    return along.index_select(0, band.argsort(stable=True))


def random_order(num_tokens: int, seed: int, *, device: torch.device | None = None) -> Tensor:
    """Tokens in an order that looks random and follows from the seed and their number, on every device.

    Shape:
        - returns: `(num_tokens,)`, int64
    """
    z = torch.arange(num_tokens, device=device) + (seed * 0x9E3779B9 & 0xFFFFFFFF)
    for _ in range(2):  # a hash of 32 bits; no product leaves int64
        z = ((z >> 16) ^ z) * 0x45D9F3B & 0xFFFFFFFF
    return ((z >> 16) ^ z).argsort(stable=True)
