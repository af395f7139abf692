"""Boxes, masks and captions drawn into an image, legible at any size of it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...fonts import Font, font_for

# Told apart by any eye (Okabe and Ito's), without black.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
# An image whose longer side is below this is enlarged before anything is drawn into it.
LONGER_SIDE = 720
OPACITY = 0.45

# The mask of an object, at a size of the image and a scale: a part of the image (rows, columns), 0 to 1, and where.
Masks = Callable[[int, tuple[int, int], float], tuple[NDArray[np.float32], int, int]]


def draw(
    image: Image.Image,
    boxes: NDArray[np.float32],
    captions: Sequence[str],
    *,
    kinds: Sequence[int],
    masks: Masks | None = None,
) -> Image.Image:
    """Draw objects into a copy of an RGB image, the surest on top; one below `LONGER_SIDE` is enlarged.

    Each object has a box, (n, 4) in pixels of the image, a few words, a kind that decides its colour, and, if there are
    some, a mask.
    """
    scale = max(1, round(LONGER_SIDE / max(image.size)))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    colours = _colours(kinds)
    image = image.copy() if masks is None else _blended(image, masks, float(scale), colours)
    pen = ImageDraw.Draw(image)
    unit = max(image.size) / LONGER_SIDE
    width, font = max(1, round(2 * unit)), font_for(captions, max(11, round(14 * unit)))
    order = range(len(boxes) - 1, -1, -1)  # the surest last, so that nothing covers it
    for place in order:
        left, top, right, bottom = (float(value) * scale for value in boxes[place])
        # Lines lie within the box, so that those at the image's edge are seen.
        right, bottom = max(right - 1, left), max(bottom - 1, top)
        pen.rectangle((left, top, right, bottom), outline=colours[place], width=width)
    for place in order:
        _caption(pen, boxes[place] * scale, captions[place], colours[place], font, image.size)
    return image


def _colours(kinds: Sequence[int]) -> list[tuple[int, int, int]]:
    """A kind keeps its colour from image to image, unless another kind in this one has taken it."""
    taken: dict[int, int] = {}
    for kind in kinds:
        if kind not in taken:
            free = [(kind + step) % len(COLOURS) for step in range(len(COLOURS))]
            taken[kind] = next((place for place in free if place not in taken.values()), free[0])
    return [COLOURS[taken[kind]] for kind in kinds]


def _blended(image: Image.Image, masks: Masks, scale: float, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    pixels = np.array(image, np.float32)
    for place in range(len(colours) - 1, -1, -1):
        mask, top, left = masks(place, (image.height, image.width), scale)
        # A ramp around one half, about a pixel wide on masks that were enlarged: smooth outlines, no steps.
        alpha = OPACITY * np.clip((mask - 0.5) * 8 + 0.5, 0, 1)[..., None]
        part = pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
        part += (np.array(colours[place], np.float32) - part) * alpha
    return Image.fromarray(pixels.round().astype(np.uint8))


def _caption(
    pen: ImageDraw.ImageDraw,
    box: NDArray[np.float32],
    words: str,
    colour: tuple[int, int, int],
    font: Font,
    size: tuple[int, int],
) -> None:
    """Above the box where there is room, else within it; never beyond the image."""
    left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
    margin = max(1, (bottom - top) // 5)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = min(max(float(box[0]), 0), max(size[0] - width, 0))
    y = float(box[1]) - height if box[1] >= height else float(box[1])
    y = min(y, max(size[1] - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128
    pen.text((x + margin - left, y + margin - top), words, "black" if light else "white", font)
