"""Signals compared between teacher and student, and the projectors that only training needs."""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn.functional import interpolate


class Signals(NamedTuple):
    """Signals of a model for images."""

    logits: Tensor  # (B, number of classes)
    pooled: Tensor  # (B, c), what the classifier sees
    maps: Tensor  # (B, c', H, W), the last feature map


def signals(model: nn.Module, images: Tensor) -> Signals:
    """Run a timm model over images (B, 3, height, width)."""
    backbone = cast(Any, model)
    maps = backbone.forward_features(images)
    return Signals(backbone.forward_head(maps), backbone.forward_head(maps, pre_logits=True), maps)


class Projector(nn.Module):
    """Linear maps from the student's features to the teacher's; thrown away after training.

    ``pooled`` and ``maps`` are channels of the student's and of the teacher's; None where they are not compared.
    """

    def __init__(self, pooled: tuple[int, int] | None, maps: tuple[int, int] | None) -> None:
        super().__init__()
        self.pooled = nn.Linear(*pooled) if pooled else None
        self.maps = nn.Conv2d(*maps, 1) if maps else None


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, height, width) at another size, without aliasing; themselves where they have it."""
    if tuple(images.shape[-2:]) == size:
        return images
    return interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
