"""The backbone in a form that exporters take: a second way to compute it, for height and width that are not known yet.

`torch.export` follows a model with symbols in place of sizes, and stops where the code asks a question about them (does
7 divide this?) or cuts a tensor at a computed place. `ExportableFeatures` computes the numbers of `SGFormer` without
either: windows are always padded and masked, crops are selections by index, and positions are resized by matrix
products, which no runtime can read in its own way. What a token budget asks for is not searched but counted, so that
the file counts it for the image at hand. It holds the model's own weights.

It returns the significance maps, too. So a file can be judged with the ranking held: the model is given the maps that
the file measured, and must then give what the file gives.
"""

from __future__ import annotations

import copy

import torch.nn as nn
from torch import Tensor

from .attention import SelfGuidedAttention
from .blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock, Stage
from .export_layers import (
    ExportableGlobal,
    ExportableHybridScale,
    ExportableMlp,
    ExportableSelfGuided,
    ExportableStem,
)
from .model import SGFormer
from .ranking import hold_significance, record_significance
from .stem import Stem

MIN_ANY_SIZE = 128  # below it some bands are shorter than a group, and the numbers of groups become 1

__all__ = [
    "MIN_ANY_SIZE",
    "Exportable",
    "ExportableFeatures",
    "hold_significance",
    "num_maps",
    "record_significance",
]


def num_maps(model: nn.Module) -> int:
    """Count the significance maps of a model, or of whatever holds its blocks."""
    return sum(isinstance(module, SelfGuidedAttention) for module in model.modules())


class ExportableFeatures(nn.Module):
    """A copy of stem and stages that returns feature and significance maps, in operations that exporters take.

    With open sizes it serves 128x128 and more.

    Args:
        model: a model, or whatever holds its stem and stages, a `features_only` one for instance.
        convs: projections beside convolutions are convolutions, too: faster in ONNX Runtime, slower in PyTorch.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, c, H, W)` of each stage, and `(B, H, W)` for each pair
    """

    def __init__(self, model: nn.Module, *, convs: bool = False) -> None:
        super().__init__()
        model = copy.deepcopy(model).eval()
        (stem,) = (module for module in model.modules() if isinstance(module, Stem))
        self.starts, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage in (module for module in model.modules() if isinstance(module, Stage)):
            start = stage.downsample if len(self.starts) else stem
            self.starts.append(ExportableStem(start, convs=convs))  # pyright: ignore
            self.stages.append(nn.ModuleList(_Block(block, convs=convs) for block in stage.blocks))
            self.norms.append(stage.norm)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The maps of the stages from fine to coarse, and what was found significant."""
        features: list[Tensor] = []
        maps: list[Tensor] = []
        for start, blocks, norm in zip(self.starts, self.stages, self.norms, strict=True):
            x = start(x)  # (B, H, W, c)
            for block in blocks:  # pyright: ignore
                x = block(x, maps)
            x = norm(x).permute(0, 3, 1, 2)
            features.append(x)
        return features, maps


class _Block(nn.Module):
    """A block of a stage; significance is added to the list of maps, or the last one is used."""

    def __init__(self, block: nn.Module, *, convs: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.mlp = ExportableMlp(block.mlp, convs=convs)  # pyright: ignore
        self.attn: nn.Module
        if isinstance(block, HybridScaleBlock):
            self.attn = ExportableHybridScale(block.attn, convs=convs)  # pyright: ignore
        elif isinstance(block, SelfGuidedBlock):
            self.attn = ExportableSelfGuided(block.attn, convs=convs)  # pyright: ignore
        else:
            assert isinstance(block, GlobalBlock)
            self.attn = ExportableGlobal(block.attn, convs=convs)  # pyright: ignore

    def forward(self, x: Tensor, maps: list[Tensor]) -> Tensor:
        y = self.norm1(x)  # pyright: ignore
        if isinstance(self.attn, ExportableHybridScale):
            y, significance = self.attn(y)
            maps.append(significance)
        elif isinstance(self.attn, ExportableSelfGuided):
            y = self.attn(y, maps[-1])
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))  # pyright: ignore


class Exportable(nn.Module):
    """Exportable classifier: returns its logits and the significance maps.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, num_classes)`, and `(B, H, W)` for each pair
    """

    def __init__(self, model: SGFormer, *, convs: bool = False) -> None:
        super().__init__()
        self.features = ExportableFeatures(model, convs=convs)
        self.head = copy.deepcopy(model.head).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Classifies, and tells what it finds significant."""
        features, maps = self.features(x)
        return (self.head(features[-1]), *maps)
