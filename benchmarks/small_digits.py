"""Small things in large images: scenes of 224 pixels with digits of 4 to 8 % of the side, among things like digits.

Photographs of scikit-image with handwritten digits of scikit-learn in them, and with distractors, digits whose quarters
were exchanged. At each digit a model is asked which one it is, and which others there are in the image. The first can
be answered on the spot, the second only by looking elsewhere; its entry for the digit's own class asks whether there is
another one like it. Training and validation share neither photographs nor digits.
"""

from __future__ import annotations

import functools

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from sgformer.tasks.digit_scenes import NUM_TRAIN_DIGITS, PHOTOGRAPHS, Split

SIZE = 224
HEIGHTS = range(10, 19)  # pixels: 4.5 to 8 % of the side
NUM_DIGITS = 4
NUM_DISTRACTORS = 4
GAP = 20  # pixels between centres, at least


@functools.cache
def backgrounds(split: Split) -> list[NDArray[np.uint8]]:
    """Each photograph in grey, at three scales."""
    found = []
    for name in PHOTOGRAPHS[split]:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("L")
        for side in (240, 320, 480):
            scale = side / min(image.size)
            size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
            found.append(np.asarray(image.resize(size)))
    return found


@functools.cache
def glyphs(split: Split) -> list[list[list[NDArray[np.float32]]]]:
    """The ink, 0 to 1, of each digit of a split, by class and height."""
    digits = load_digits()
    part = slice(NUM_TRAIN_DIGITS) if split == "train" else slice(NUM_TRAIN_DIGITS, None)
    found: list[list[list[NDArray[np.float32]]]] = [[[] for _ in HEIGHTS] for _ in range(10)]
    for pixels, label in zip(digits.images[part], digits.target[part], strict=True):
        image = Image.fromarray((pixels / 16).astype(np.float32))
        for i, height in enumerate(HEIGHTS):
            large = np.asarray(image.resize((height, height), Image.Resampling.BICUBIC))
            found[label][i].append(np.clip((large - 0.5) * height / 8 + 0.5, 0, 1))
    return found


def scene(
    split: Split, labels: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An image `(SIZE, SIZE)`, 0 to 255, and the centre (row, column) in pixels of each digit."""
    photographs = backgrounds(split)
    photograph = photographs[rng.integers(len(photographs))]
    top, left = (rng.integers(side - SIZE + 1) for side in photograph.shape)
    canvas = photograph[top : top + SIZE, left : left + SIZE].astype(np.float32) * rng.uniform(0.3, 0.7)
    if rng.random() < 0.5:
        canvas = canvas[:, ::-1].copy()
    centres: list[NDArray[np.float64]] = []
    for label in [*labels, *[None] * NUM_DISTRACTORS]:
        of_class = glyphs(split)[rng.integers(10) if label is None else label]
        choices = of_class[rng.integers(len(HEIGHTS))]
        ink = choices[rng.integers(len(choices))]
        if label is None:
            ink = exchanged(ink, rng)
        side = len(ink)
        for _ in range(50):
            top, left = rng.integers(0, SIZE - side + 1, 2)
            centre = np.array([top + side / 2, left + side / 2])
            if all(np.abs(centre - other).max() > GAP for other in centres):
                break
        opacity = ink * rng.uniform(0.85, 1)
        region = canvas[top : top + side, left : left + side]
        region[:] = region * (1 - opacity) + rng.uniform(190, 255) * opacity
        centres.append(centre)
    return canvas, np.array(centres[: len(labels)], np.float32)


def exchanged(ink: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A digit whose quarters stand in other places: strokes like a digit's, and none."""
    half = len(ink) // 2
    a, b, c, d = ink[:half, :half], ink[:half, -half:], ink[-half:, :half], ink[-half:, -half:]
    return np.block([[c, d], [a, b]]) if rng.random() < 0.5 else np.block([[d, a], [b, c]])


def scenes(split: Split, number: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Some scenes, and what is asked about them.

    Shape:
        - returns: images `(B, 1, SIZE, SIZE)`; `centres` `(B, n, 2)` as (row, column) in pixels, `labels` `(B, n)`, and
          `others` `(B, n, 10)`, whether each class is that of another digit of the image
    """
    images, centres, labels, others = [], [], [], []
    for _ in range(number):
        drawn = rng.integers(0, 10, NUM_DIGITS)
        image, places = scene(split, drawn, rng)
        counts = np.bincount(drawn, minlength=10) - np.eye(10, dtype=np.int64)[drawn]
        images.append(image)
        centres.append(places)
        labels.append(drawn)
        others.append(counts > 0)
    target = {"centres": np.stack(centres), "labels": np.stack(labels), "others": np.stack(others)}
    x = torch.from_numpy(np.stack(images)).unsqueeze(1) / 128 - 1
    return x, {key: torch.from_numpy(values) for key, values in target.items()}
