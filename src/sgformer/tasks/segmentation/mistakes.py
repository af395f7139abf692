"""The images in which a segmenter is most wrong, beside what it should have said and what it said."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..loading import Unreadable
from .data import Readable, SegmentationData
from .inference import prepare, resize, scaled_size
from .masks import IGNORE
from .model import Segmenter
from .options import DataOptions
from .prediction import SemanticMap

# The longer side of each of the images, and the most that is given to see significance in, in pixels.
DRAWN, SEEN = 480, 1024


@torch.inference_mode()
def worst(
    model: Segmenter, data: DataOptions, *, num: int = 12
) -> list[tuple[list[Image.Image], Tensor, str]]:
    """The validation images with the greatest share of wrong pixels, of those that have a class.

    Args:
        model: Put into evaluation mode, and left in it; ``data.inference`` becomes its own.
        data: Which images, and how they go through the model.
        num: How many at most.

    Returns:
        For each the image, the truth and the prediction, as images of one size; what the backbone sees of it
        (3, height, width); and a line about it. The worst first.
    """
    module = SegmentationData(data, model.preprocessing, classes=model.classes, splits=("val",))
    dataset = Readable(module.images("val"))
    model.inference = data.inference
    model.eval()
    found: list[tuple[float, int]] = []
    for index in range(len(dataset)):
        if isinstance(sample := dataset[index], Unreadable):
            continue
        image, mask = sample
        if (wrong := _wrong(model.indices(image), mask)).any():
            found.append((float(wrong.sum() / (mask != IGNORE).sum()), index))
    shown = []
    for share, index in sorted(found, key=lambda pair: -pair[0])[:num]:
        image, mask = dataset[index]
        given = model.indices(image)
        maps = (SemanticMap(each, model.classes, model.palette) for each in (mask, given))
        shown_image = model.preprocessing.show(image)
        panels = [_fitted(shown_image), *(map_.paint(shown_image, longest=DRAWN) for map_ in maps)]
        size = scaled_size((shown_image.height, shown_image.width), data.inference.shorter_side)
        size = scaled_size(size, None, min(1.0, SEEN / max(size)))
        seen = prepare(resize(image, model.preprocessing, size=size), model.preprocessing)
        shown.append((panels, seen, f"{share:.1%} of pixels wrong{_most(given, mask, model.classes)}"))
    return shown


def _wrong(given: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (given != mask) & (mask != IGNORE)


def _most(given: NDArray[np.uint8], mask: NDArray[np.uint8], classes: tuple[str, ...]) -> str:
    """Find which class is most often taken for which."""
    wrong = _wrong(given, mask)
    pairs = np.bincount(mask[wrong].astype(np.int64) * len(classes) + given[wrong])
    true, taken = divmod(int(pairs.argmax()), len(classes))
    return f", most often {classes[true]} taken for {classes[taken]}"


def _fitted(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((DRAWN, DRAWN))
    return small
