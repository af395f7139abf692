"""Augmentation of training images together with their masks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from ..images import resized_masks
from .masks import IGNORE


@dataclass(kw_only=True)
class AugmentOptions:
    """Options of the augmentation of training images.

    Attributes:
        scale: Least and greatest factor on an image's size, drawn evenly.
        max_share: How much of a crop one class may cover; a crop with more is drawn again, ten times at most.
        flip: How often an image is mirrored; 0 where left and right mean something.
        photometric: How often brightness, contrast, saturation and hue are changed.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    max_share: float = 0.75
    flip: float = 0.5
    photometric: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"data.augment.scale {self.scale} must be least and greatest factor, above 0")


class Augment:
    """Augment an image and its mask, of the same size, to a crop of both.

    Images are resized to ``shorter_side`` before the random factor, masks by the nearest. Where a crop is larger than
    the image, it has the colour ``fill``, 0 to 255, and the mask is ignored.
    """

    def __init__(
        self,
        options: AugmentOptions,
        *,
        size: tuple[int, int],
        shorter_side: int | None,
        interpolation: str,
        fill: tuple[float, ...],
    ) -> None:
        self.options, self.size, self.shorter_side = options, size, shorter_side
        self.interpolation, self.fill = InterpolationMode(interpolation), list(fill)
        self.flip = v2.RandomHorizontalFlip(options.flip)
        # The library's own chances within, so that an image rarely gets all of them.
        self.photometric = v2.RandomApply([v2.RandomPhotometricDistort()], p=options.photometric)

    def __call__(self, image: Any, mask: NDArray[np.uint8], batch_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """The augmented crop of an image that was read, (channels, height, width) not normalized, and of its mask.

        Each is drawn by itself; ``batch_seed`` is not used.
        """
        sample = tv_tensors.Image(image), tv_tensors.Mask(mask)
        crop = self._crop(*self._pad(*self._resize(*sample)))
        pixels, indices = self.photometric(*self.flip(*crop))
        return pixels.as_subclass(Tensor), indices.as_subclass(Tensor)

    def _resize(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        least, greatest = self.options.scale
        factor = least + (greatest - least) * torch.rand(()).item()
        if self.shorter_side:
            factor *= self.shorter_side / min(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        if size == (height, width):
            return image, mask
        image = functional.resize(image, [*size], interpolation=self.interpolation, antialias=True)
        return image, tv_tensors.Mask(resized_masks(mask[None], size)[0])

    def _pad(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        below, right = (max(0, w - h) for w, h in zip(self.size, image.shape[-2:], strict=True))
        if not below and not right:
            return image, mask
        padding = [0, 0, right, below]
        return functional.pad(image, padding, fill=self.fill), functional.pad(mask, padding, fill=IGNORE)

    def _crop(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self.size
        top = left = 0
        for _ in range(10):
            top = int(torch.randint(image.shape[-2] - height + 1, ()))
            left = int(torch.randint(image.shape[-1] - width + 1, ()))
            part = mask[..., top : top + height, left : left + width]
            counts = torch.bincount(part[part != IGNORE].flatten().long())
            if self.options.max_share >= 1 or (
                (counts > 0).sum() > 1 and counts.max() <= self.options.max_share * counts.sum()
            ):
                break
        place = top, left, height, width
        return functional.crop(image, *place), functional.crop(mask, *place)
