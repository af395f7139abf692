"""Augmentation of training images, together with their boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..images import resized_masks

Target = dict[str, Any]


def to_tensor(image: Image.Image) -> Tensor:
    """8 bits (3, height, width) from an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(kw_only=True)
class AugmentOptions:
    """Options of the augmentation of training images, boxes and masks.

    Attributes:
        shorter_sides: Lengths of the shorter side, one of which is drawn for each image; empty: data.shorter_side.
        crop: Height and width of a random part, taken where an image is larger after it was resized; null: all of it.
        flip: How often an image is mirrored; 0 where left and right mean something.
        flip_vertical: How often it is turned upside down, for images that have no up, such as from a microscope.
        photometric: How often brightness, contrast, saturation and hue are changed.
    """

    shorter_sides: list[int] = field(default_factory=list)
    crop: int | None = None
    flip: float = 0.5
    flip_vertical: float = 0.0
    photometric: float = 0.0

    def __post_init__(self) -> None:
        if min([*self.shorter_sides, self.crop or 32]) < 32:
            raise ValueError("data.augment.shorter_sides and data.augment.crop must be at least 32 pixels")


def resized(size: tuple[int, int], *, shorter: int, longest: int, multiple: int = 1) -> tuple[int, int]:
    """(height, width) that an image is resized to: its shape is kept, no side is below 32 pixels.

    ``shorter`` is for the shorter side, ``longest`` the most for the longer one; both are rounded to a ``multiple``.

    Example:
        >>> resized((480, 640), shorter=800, longest=1333)
        (800, 1067)
        >>> resized((200, 1000), shorter=800, longest=1333)
        (267, 1333)
    """
    scale = min(shorter / min(size), longest / max(size))
    height, width = (max(32, round(side * scale / multiple) * multiple) for side in size)
    return height, width


class Augment:
    """Augment an image together with its annotations.

    ``image_size`` is the length of the shorter side after resizing, where none are to be drawn, and of the longer at
    most.
    """

    def __init__(self, options: AugmentOptions, *, image_size: tuple[int, int], multiple: int = 1) -> None:
        self.options, self.image_size, self.multiple = options, image_size, multiple

    def size(self, size: tuple[int, int], *, shorter: int | None = None) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to; at most, where lengths are drawn."""
        longest_drawn = max(self.options.shorter_sides or [self.image_size[0]])
        return resized(size, shorter=shorter or longest_drawn, longest=self.image_size[1], multiple=self.multiple)

    def leaves(self, boxes: Tensor, masks: Sequence[Tensor | None], size: tuple[int, int]) -> Tensor:
        """Tell which objects are still there when an image is resized as large as it is in training, uncut: bool (n,).

        Boxes (n, 4) are left, top, right and bottom in pixels; an object's mask is (height, width), or None where its
        box alone decides.
        """
        new = self.size(size)
        sample = {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)}  # pyright: ignore
        edges = v2.Compose([v2.Resize(new, antialias=True), v2.ClampBoundingBoxes()])(sample)["boxes"]
        left = ((edges[:, 2:] - edges[:, :2]) >= 1).all(1)  # as torchvision sees it
        for place, mask in enumerate(masks):
            if mask is not None and left[place]:
                left[place] = bool(resized_masks(mask[None], new).any())
        return left

    def __call__(self, image: Tensor, target: Target, batch_seed: int | None = None) -> tuple[Tensor, Target]:
        """Vary an image of 8 bits, (3, height, width).

        The target has ``boxes`` (n, 4), ``labels`` and ``iscrowd`` (n,), and ``masks`` (n, height, width) or none; in
        what comes back are the objects that are left, and in ``crowds`` (m, 4) the boxes of regions from which nothing
        can be learned. ``batch_seed`` draws the length of the shorter side; None: drawn for this image.
        """
        options = self.options
        size = (int(image.shape[1]), int(image.shape[2]))
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size),  # pyright: ignore
            "labels": target["labels"],
            "iscrowd": target["iscrowd"],
        }
        shorter = None
        if options.shorter_sides:
            drawn = torch.randint(2**32, ()).item() if batch_seed is None else batch_seed
            shorter = options.shorter_sides[int(drawn) % len(options.shorter_sides)]
        size = self.size(size, shorter=shorter)
        if "masks" in target:
            sample["masks"] = tv_tensors.Mask(resized_masks(target["masks"], size))
        steps: list[Any] = [v2.Resize(size, antialias=True)]
        if options.crop and options.crop < max(size):
            steps.append(v2.RandomCrop((min(options.crop, size[0]), min(options.crop, size[1]))))
        steps += [v2.RandomHorizontalFlip(options.flip), v2.RandomVerticalFlip(options.flip_vertical)]
        steps.append(v2.RandomApply([v2.RandomPhotometricDistort(p=0.5)], p=options.photometric))
        # With the boxes that a crop left nothing of go their rows of all else.
        sanitize = v2.SanitizeBoundingBoxes(labels_getter=lambda one: (one["labels"], one["iscrowd"]))
        steps += [v2.ClampBoundingBoxes(), sanitize, v2.ToPureTensor()]
        sample = v2.Compose(steps)(sample)
        left = torch.ones(len(sample["labels"]), dtype=torch.bool)
        if "masks" in sample:
            # A box that was cut may hold no pixel of its object any more.
            left = sample["masks"].bool().flatten(1).any(1)
        crowd = sample.pop("iscrowd") > 0
        image, boxes = sample.pop("image"), sample["boxes"]
        varied = {key: rows[left & ~crowd] for key, rows in sample.items()}
        return image, {**varied, "crowds": boxes[left & crowd]}
