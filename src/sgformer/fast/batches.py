"""The stem a few images of a large batch at a time, on a CPU: no wide map of all of them is ever whole."""

import torch
from torch import Tensor

from ..backbone.stem import Stem
from ..ops.pieces import few_images
from .conditions import layers_objection, mode_objection
from .fused import Instead, chain


def why_not(stem: Stem, x: Tensor) -> str | None:
    """None, or a sentence."""
    if torch.compiler.is_compiling():  # first: to ask for the batch would hold the compiler to it
        return "torch.compile follows"
    if reason := mode_objection() or layers_objection(stem):
        return reason
    return "the batch is small, or not on a CPU" if _at_once(stem, x) is None else None


def run(stem: Stem, x: Tensor) -> Tensor:
    """Compute the stem."""

    def embed(x: Tensor) -> Tensor:
        parts = x.split(_at_once(stem, x) or len(x))
        return torch.cat([chain(stem, part) for part in parts])

    return Instead(stem, embed=embed).plain(x)


def _at_once(stem: Stem, x: Tensor) -> int | None:
    size = x.numel() // stem.conv1.in_channels * stem.conv1.out_channels // 4
    return few_images(x, size)
