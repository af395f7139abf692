"""Significance maps of a model, in evaluation mode and without gradients, whatever mode it is in."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..engine.modes import evaluating


@torch.no_grad()
def significance_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Measure the significance of every token, in evaluation mode and without gradients.

    A token is as significant as the attention that it receives, coarsely from all tokens and finely from
    those of its window, relative to an even share: 1 is average. Training or evaluation mode of the model, of
    each of its parts, is left as found.

    Args:
        model: anything with `forward_significance(x) -> list of (B, H, W)`, or a model that holds such a
            backbone (a classifier around it, a detector): the first one found answers.
        x: normalised images `(B, 3, height, width)`, where the model's parameters are.

    Returns:
        One map `(B, H, W)` on the CPU in float32 for each pair of blocks, from the first to the last. The
        grid shrinks from stage to stage.

    Raises:
        ValueError: nothing in the model measures significance.
    """
    measure = _find(model, "forward_significance")
    with evaluating(model):
        return [significance.detach().float().cpu() for significance in measure(x)]


class Spent(NamedTuple):
    """Spending of a pair of blocks for each token.

    Attributes:
        group_size: how many tokens are merged into one where this token is.
        keys: how many keys this token accounts for; over a region they add up to what it receives.

    Shape:
        - both alike: `(B, H, W)`, on the CPU
    """

    group_size: Tensor
    keys: Tensor


@torch.no_grad()
def spending_maps(model: nn.Module, x: Tensor, maps: Sequence[Tensor] | None = None) -> list[Spent]:
    """Ask how the model spends its keys, in evaluation mode and without gradients.

    Args:
        model: anything with `forward_spending(x, maps)`, or a model that holds such a backbone.
        x: normalised images `(B, 3, height, width)`, where the model's parameters are.
        maps: what `significance_maps` says of them, where it was asked already; the model is not run again then.

    Returns:
        For each pair of blocks, from the first to the last, what it makes of each token.

    Raises:
        ValueError: nothing in the model can tell.
    """
    spend = _find(model, "forward_spending")
    with evaluating(model):
        return [Spent(size.cpu(), keys.float().cpu()) for size, keys in spend(x, maps)]


def _find(model: nn.Module, method: str) -> Callable[..., Any]:
    for module in model.modules():
        if (found := getattr(module, method, None)) is not None:
            return found
    raise ValueError(
        f"{type(model).__name__} has no {method}: only SG-Former backbones have such maps; "
        "of timm's feature extractors only features_only=True with feature_cls='getter' keeps them"
    )
