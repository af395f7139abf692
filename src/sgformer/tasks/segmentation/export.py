"""Segmenters in exportable operations, for maps of unknown height and width."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..export import InHalf, Part
from .model import Segmenter


def part(model: Segmenter, *, half: bool = False) -> Part:
    """Export the logits of images, at their own size; in float16 if that is wanted."""
    module = ExportableSegmenter(model)
    return Part(
        module=InHalf(module) if half else module,
        reference=lambda x: [model(x)],
        backbone=model.backbone,
        outputs=("logits",),
        channels=len(model.preprocessing.mean),
        image_size=model.preprocessing.image_size,
        about={"palette": [list(colour) for colour in model.palette]},
    )


class ExportableSegmenter(nn.Module):
    """A segmenter that asks nothing of an image's size: `(B, 3, height, width)` to `(B, classes, height, width)`."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.decoder = copy.deepcopy(model.decoder).eval()
        self.classifier = copy.deepcopy(model.classifier)
        self.is_pyramid = model.options.name == "semantic_fpn"
        for module in list(self.decoder.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, _MeanCells(int(child.output_size)))  # pyright: ignore

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gives each pixel a score for each class."""
        maps = self.backbone(x)
        logits = self.classifier(self._fuse(maps) if self.is_pyramid else self.decoder(maps)).float()
        logits = F.interpolate(logits, (4 * logits.shape[2], 4 * logits.shape[3]), mode="bilinear")
        return (_placed(logits, x.shape[2], x.shape[3]),)

    def _fuse(self, features: list[Tensor]) -> Tensor:
        """Fuse maps like `SemanticFPN`, which asks whether sizes are odd and grows maps by factors."""
        decoder: Any = self.decoder.decoder
        rows, columns = features[-1].shape[-2:]
        x, fused = None, None
        for level in reversed(range(4)):
            height, width = rows * 2 ** (3 - level), columns * 2 ** (3 - level)
            map_ = _placed(features[level], height, width)
            if x is None:
                x = decoder.p5(map_)
            else:
                skip = getattr(decoder, f"p{level + 2}").skip_conv(map_)
                x = F.interpolate(x, (height, width), mode="nearest") + skip
            y = x
            for i, block in enumerate(decoder.seg_blocks[3 - level].block):
                y = block.block(y)
                if block.upsample:
                    size = height * 2 ** (i + 1), width * 2 ** (i + 1)
                    y = F.interpolate(y, size, mode="bilinear", align_corners=True)
            fused = y if fused is None else fused + y
        assert fused is not None
        return _placed(fused, *features[0].shape[-2:])


class _MeanCells(nn.Module):
    """`nn.AdaptiveAvgPool2d` to a square, by two matrix products, for maps of any size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Means of `side * side` cells, which may overlap by a place."""
        rows, columns = (self._cells(length, x) for length in x.shape[-2:])
        return rows @ x @ columns.T

    def _cells(self, length: Any, like: Tensor) -> Tensor:
        place = torch.arange(length, device=like.device)
        cell = torch.arange(self.side, device=like.device).unsqueeze(1)
        first = cell * length // self.side
        last = ((cell + 1) * length + self.side - 1) // self.side
        inside = ((place >= first) & (place < last)).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


def _placed(x: Tensor, height: Any, width: Any) -> Tensor:
    """A map `(B, c, H, W)` cut off at the right and the bottom, or with its edge repeated there."""
    row, column = (
        torch.minimum(torch.arange(new, device=x.device), torch.full((1,), old - 1, device=x.device))
        for new, old in zip((height, width), x.shape[-2:], strict=True)
    )
    return x.index_select(2, row).index_select(3, column)
