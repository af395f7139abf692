"""Orders of tokens to compare significance with: keys spent by them ignore the image.

They cost the same and use the same weights, and give a list of the same length; they only choose otherwise which tokens
are merged finely and which coarsely. `held` gives them to a model from outside.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from sgformer import hold_significance
from sgformer.backbone.attention import SelfGuidedAttention
from sgformer.backbone.regional import NUM_SIZES, RegionalAttention
from sgformer.ops.group_regions import cut_map

Kind = Literal["uniform", "random", "reversed"]


def held(model: nn.Module, kind: Kind, *, seed: int = 0) -> AbstractContextManager:
    """Inside this context the model spends its keys by an order of this kind.

    Args:
        model: a model, or whatever holds its blocks.
        kind: `"uniform"`, in which each band takes every second or fourth token along a curve that fills the map, and
            groups are neighbours on that curve, or, where a model merges by regions, the cells that are split are
            spread evenly; `"random"`, another one for each pair of blocks; `"reversed"`, the least significant first.
        seed: decides the random orders.
    """
    pairs = [module for module in model.modules() if isinstance(module, SelfGuidedAttention)]
    return hold_significance(model, [functools.partial(_map, kind, a, seed + i) for i, a in enumerate(pairs)])


def _map(kind: Kind, attention: SelfGuidedAttention, seed: int, measured: Tensor) -> Tensor:
    """A map of the measured one's shape whose ranking is an order of this kind."""
    _, H, W = measured.shape
    if kind == "reversed":
        return -measured
    if kind == "random":
        order = random_order(H * W, seed, device=measured.device)
    elif isinstance(attention, RegionalAttention):
        return even_splits(attention, H, W, device=measured.device).expand_as(measured)
    else:
        order = uniform_order(H, W, len(attention.group_sizes), device=measured.device)
    return order.argsort().to(torch.float64).view(1, H, W).expand_as(measured)


def even_splits(attention: RegionalAttention, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """A map by which the cells that are split lie evenly over the image: along a sequence that fills the plane evenly.

    Shape:
        - returns: `(height, width)`, float64

    Source:
        Roberts, "The unreasonable effectiveness of quasirandom sequences", 2018: the constants.
    """
    cut = cut_map(height, width, num_sizes=NUM_SIZES, num_keys=attention.num_keys(height * width))
    row = torch.arange(height, device=device) * cut.rows // height
    column = torch.arange(width, device=device) * cut.columns // width
    place = (0.7548776662466927 * row.double())[:, None] + 0.5698402909980532 * column.double()
    return place % 1


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
