"""Decoders from a backbone's feature maps to one map of stride 4, for dense prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..engine.modes import evaluating


@dataclass(kw_only=True)
class HeadOptions:
    """Options of the head that turns feature maps into a prediction for each pixel.

    Attributes:
        name: upernet (pooling at four scales, then a feature pyramid) or semantic_fpn (a feature pyramid).
        channels: Width of the head, a multiple of 64 for semantic_fpn.
        dropout: How often channels are left out in training, before the last layer.
        auxiliary: Width of a second, small head on the maps of stride 16, which helps training and is not used
            afterwards; 0: none.
    """

    name: Literal["upernet", "semantic_fpn"] = "upernet"
    channels: int = 512
    dropout: float = 0.1
    auxiliary: int = 256

    def __post_init__(self) -> None:
        if self.channels < 1 or (self.name == "semantic_fpn" and self.channels % 64):
            raise ValueError(f"head.channels {self.channels} must be above 0, and for semantic_fpn a multiple of 64")


class UPerNet(nn.Module):
    """The decoder of segmentation-models-pytorch, which expects maps of stride 1 and 2 first and ignores them.

    Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018.

    Shape:
        - input: maps of stride 4, 8, 16, 32
        - output: (B, channels, height / 4, width / 4)
    """

    def __init__(self, channels: Sequence[int], options: HeadOptions) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        self.decoder = UPerNetDecoder([0, 0, *channels], decoder_channels=options.channels)
        self.out_channels = options.channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The fused map."""
        return self.decoder([maps[0], maps[0], *maps])


class SemanticFPN(nn.Module):
    """The decoder of segmentation-models-pytorch, which expects each map to be half the one before.

    Source: Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019.

    Shape:
        - input: maps of stride 4, 8, 16, 32
        - output: (B, channels / 2, height / 4, width / 4)
    """

    def __init__(self, channels: Sequence[int], options: HeadOptions) -> None:
        super().__init__()
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

        self.out_channels = options.channels // 2
        # Dropout is the segmenter's, for both heads the same.
        self.decoder = FPNDecoder(
            [0, *channels],  # pyright: ignore[reportArgumentType]
            pyramid_channels=options.channels,
            segmentation_channels=self.out_channels,
            dropout=0.0,
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The fused map."""
        height, width = maps[0].shape[-2:]
        rows, columns = maps[-1].shape[-2:]
        grown = []
        for map_, factor in zip(maps, (8, 4, 2, 1), strict=True):
            below, right = rows * factor - map_.shape[-2], columns * factor - map_.shape[-1]
            # At odd sizes edges are repeated, so that doubling fits; what was added is cut off again.
            grown.append(pad(map_, (0, right, 0, below), mode="replicate") if below or right else map_)
        return self.decoder(grown)[..., :height, :width]


def create_decoder(channels: Sequence[int], options: HeadOptions) -> UPerNet | SemanticFPN:
    """The decoder that a recipe names, for maps of so many channels.

    ImportError where segmentation-models-pytorch is not installed.
    """
    try:
        return (UPerNet if options.name == "upernet" else SemanticFPN)(channels, options)
    except ImportError as error:
        raise ImportError(
            f"the head {options.name} needs segmentation-models-pytorch: pip install 'sgformer[segmentation]'"
        ) from error


def any_size(name: str) -> dict[str, Any]:
    """The argument with which models that insist on one size of image, such as swin, take any."""
    try:
        with torch.device("meta"):
            timm.create_model(name, strict_img_size=False)
    except (TypeError, RuntimeError):
        return {}
    return {"strict_img_size": False}


@torch.no_grad()
def rounds_up(backbone: nn.Module, channels: int) -> bool:
    """Whether maps have a cell for each started square of pixels, so that images need no padding."""
    try:
        with evaluating(backbone):
            maps = backbone(torch.zeros(1, channels, 33, 65))
    except (AssertionError, RuntimeError):
        return False
    sizes = [tuple(map_.shape[-2:]) for map_ in maps]
    return sizes == [(-(-33 // stride), -(-65 // stride)) for stride in (4, 8, 16, 32)]
