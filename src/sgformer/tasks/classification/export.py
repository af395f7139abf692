"""Classifiers as exporters take them."""

from typing import Any

from torch import Tensor, nn

from ..export import InHalf, Part
from .model import Classifier


def part(model: Classifier, *, half: bool = False) -> Part:
    """Export the logits of images; in float16 if that is wanted."""
    backbone: Any = model.backbone
    module = _Logits(backbone)
    return Part(
        module=InHalf(module) if half else module,
        reference=lambda x: [backbone(x)],
        backbone=backbone,
        outputs=("logits",),
        channels=backbone.in_chans,
        image_size=model.preprocessing.image_size,
        about={"names": [model.names.get(name, name) for name in model.classes]},
    )


class _Logits(nn.Module):
    """A model whose output is a tuple of one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.model(x),)
