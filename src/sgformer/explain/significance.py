"""Ask a model for its significance maps, whatever state it is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def significance_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Measure the significance of every token, in evaluation mode and without gradients.

    A token is as significant as the attention that it receives, coarsely from all tokens and finely from
    those of its window, relative to an even share: 1 is average. Training or evaluation mode of the model, of
    each of its parts, is left as found.

    Args:
        model: anything with `forward_significance(x) -> list of (B, H, W)`, or a model that holds such a
            backbone (a classifier around it, a detector): the first one found answers.
        x: normalised pictures `(B, 3, height, width)`, where the model's parameters are.

    Returns:
        One map `(B, H, W)` on the CPU in float32 for each pair of blocks, from the first to the last. The
        grid shrinks from stage to stage.

    Raises:
        ValueError: nothing in the model measures significance.
    """
    measure = _find_measure(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        return [significance.detach().float().cpu() for significance in measure(x)]
    finally:
        for module, training in modes:
            module.training = training


def _find_measure(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    for module in model.modules():
        measure: Any = getattr(module, "forward_significance", None)
        if measure is not None:
            return measure
    raise ValueError(
        f"{type(model).__name__} has no forward_significance: only SG-Former backbones have such maps; "
        "of timm's feature extractors only features_only=True with feature_cls='getter' keeps them"
    )
