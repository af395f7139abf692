"""Augmentation: crops and colours of each image, mixup and cutmix of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import create_transform
from torch import Tensor

from ..images import Preprocessing


@dataclass(kw_only=True)
class AugmentOptions:
    """Options of the augmentation of training images.

    Attributes:
        crop_scale: Least and greatest share of the image's area that a random crop covers.
        crop_ratio: Least and greatest width to height of a crop, before it is resized to the image size.
        flip: How often an image is mirrored; 0 where left and right mean something.
        color_jitter: How far brightness, contrast and saturation may change.
        rand_augment: A policy in timm's words, such as rand-m9-mmax9-mstd0.5-inc1; null: none.
        erase: How often a random rectangle is replaced by noise.
        mixup: Strength of mixing two images, as the alpha of a Beta distribution; 0: never.
        cutmix: The same for pasting a part of one into another; with both, each batch draws one of them.
        mix_prob: Share of batches in which there is mixup or cutmix at all.
        mix_epochs: After how many epochs mixup and cutmix end, so that the last ones see images as they are; null:
            never.
    """

    crop_scale: tuple[float, float] = (0.35, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    color_jitter: float = 0.0
    rand_augment: str | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_epochs: int | None = None

    @property
    def mixes(self) -> bool:
        """Whether labels are ever mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_prob > 0


def image_transform(
    options: AugmentOptions, preprocessing: Preprocessing, size: tuple[int, int]
) -> tuple[Callable[[Any], Tensor], int]:
    """Create the random transform of training images, from what was read to pixels.

    Also gives the shorter side that it needs, see `read_image`; ``size`` is the (height, width) of what it gives.
    """
    transform = create_transform(
        (len(preprocessing.mean), *size),
        is_training=True,
        scale=options.crop_scale,
        ratio=options.crop_ratio,
        hflip=options.flip,
        color_jitter=options.color_jitter,
        auto_augment=options.rand_augment,
        interpolation=preprocessing.interpolation,
        **preprocessing.ending(normalize=False),
    )
    # A crop may cover a small part only, and that part must still have the pixels it needs.
    return cast(Callable[[Any], Tensor], transform), round(max(size) / options.crop_scale[0] ** 0.5)


class BatchAugment:
    """timm's random erasing, mixup and cutmix of whole batches, where their images are normalized."""

    def __init__(self, options: AugmentOptions, num_classes: int) -> None:
        self.options = options
        self.mixup = None
        if options.mixes:
            self.mixup = Mixup(
                mixup_alpha=options.mixup,
                cutmix_alpha=options.cutmix,
                prob=options.mix_prob,
                label_smoothing=0.0,  # the loss smooths, mixed or not
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, targets: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment normalized images (B, 3, height, width), B above 0; mixed targets become (B, classes)."""
        if self.options.erase:
            erase = RandomErasing(self.options.erase, mode="pixel", device=str(images.device))
            images = erase(images)
        last = self.options.mix_epochs
        even = len(images) // 2 * 2  # images are mixed in pairs; one may be missing where a file is damaged
        if self.mixup is None or not even or (last is not None and epoch >= last):
            return images, targets
        return self.mixup(images[:even], targets[:even])
