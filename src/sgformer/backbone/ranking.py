"""Holding the ranking fixed, where two ways to compute the same model are compared in low precision.

Rounding swaps neighbours in a ranking of tokens, and one swap changes the output by far more than rounding does. So in
float32 and below, compiled or exported or batched otherwise, two runs of one model differ by that and tell nothing
about the error of either. With the significance of one of them given to both, they rank alike, and can be compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch.nn as nn
from torch import Tensor

from .attention import HybridScaleAttention, SelfGuidedAttention


def num_maps(model: nn.Module) -> int:
    """Count the significance maps that a model measures, or whatever holds its blocks."""
    return sum(isinstance(module, HybridScaleAttention) for module in model.modules())


@contextmanager
def hold_significance(model: nn.Module, maps: Sequence[Tensor | Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside this context the model ranks its tokens by the significance maps given, not by those it measures.

    `forward_significance` still returns what the model measures. A map is used in the precision that it comes in: take
    float64 ones from a float64 copy of the model.

    Args:
        model: a model, or whatever holds its blocks, a `features_only` one for instance.
        maps: one map per pair of blocks, in order, as from `SGFormer.forward_significance`. In place of a map there
            may be a function that takes the measured one and returns another, to compare with an order of one's own.

    Raises:
        ValueError: if there are more or fewer maps than pairs; in the forward pass, if a map is not of its stage's
            size.

    Shape:
        - maps: `(B, H, W)` each

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("sgformer_test").eval()
        >>> x = torch.randn(1, 3, 64, 64)
        >>> maps = timm.create_model("sgformer_test").double().forward_significance(x.double())
        >>> with hold_significance(model, maps):
        ...     model(x).shape
        torch.Size([1, 1000])
    """
    attentions = [module for module in model.modules() if isinstance(module, SelfGuidedAttention)]
    if len(attentions) != len(maps):
        raise ValueError(f"got {len(maps)} significance maps for {len(attentions)} pairs of blocks; give one for each")
    handles = [a.register_forward_pre_hook(_replace_by(held)) for a, held in zip(attentions, maps, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_significance(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside this context the list given grows by each map `(B, H, W)` that the model measures, in order."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _args: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        maps.append(output[1])

    attentions = [module for module in model.modules() if isinstance(module, HybridScaleAttention)]
    handles = [attention.register_forward_hook(keep) for attention in attentions]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _replace_by(held: Tensor | Callable[[Tensor], Tensor]):
    def hook(_module: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, measured = args
        replacement = held if isinstance(held, Tensor) else held(measured)
        if replacement.shape != measured.shape:
            raise ValueError(
                f"a significance map is {tuple(replacement.shape)}, the model's own {tuple(measured.shape)}; "
                "take maps of the same images"
            )
        return x, replacement.to(x.device)

    return hook
