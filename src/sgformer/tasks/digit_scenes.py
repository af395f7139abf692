"""Digit scenes: handwritten digits pasted into photographs, a real data set that needs no download.

Both ingredients ship inside wheels: the photographs in scikit-image's (public domain, CC0, or without known
copyright restrictions), the digits of the UCI Optical Recognition set in scikit-learn's. One generator gives
class labels, boxes, instance masks and semantic maps, so every task can learn from it within minutes.

`train` and `val` share neither a photograph nor a digit, and since scikit-learn's digits are listed by
writer, those of `val` come from other hands as well.

Example:
    >>> scenes = DigitScenes("val", length=100, size=(64, 96), num_digits=(1, 3))
    >>> scene = scenes[0]
    >>> scene.image.size, scene.masks.shape[1:]
    ((96, 64), (64, 96))
    >>> len(scene.boxes) == len(scene.labels) == len(scene.masks)
    True
"""

import importlib
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .folders import Split

# Functions of skimage.data whose file lies inside the wheel (0.24 to 0.26) and states a free licence; the
# stereo motorcycle states none. The gray ones are textures: busy, even backgrounds.
PHOTOGRAPHS: dict[Split, tuple[str, ...]] = {
    "train": (*("astronaut", "coffee", "hubble_deep_field", "immunohistochemistry"), *("camera", "brick", "gravel")),
    "val": ("chelsea", "rocket", "retina", "grass"),
}
NUM_TRAIN_DIGITS = 1437  # of 1,797; the other 360 are the last of the list

MIN_SIZE = 32
# Height of a digit, as a share of the image's shorter side; where there are several, each is smaller.
DIGIT_HEIGHT = (0.42, 0.72)
MIN_DIGIT_HEIGHT = 12  # pixels; below this, people misread the digits too
MAX_HIDDEN = 0.25  # of a digit, by those drawn later
MAX_ROTATION = math.radians(14)
# Photographs are dimmed and digits bright. With digits of either polarity small models stay at chance for
# thousands of scenes, because no cue as to where the digit is survives averaging over images.
DUSK = (0.5, 0.75)
MIN_CONTRAST = 85
# Eyes read by lightness first: luminance (as in BT.601) in full, colour differences at a third.
LUMA_AND_CHROMA = np.array([[0.299, -0.06, 0.17], [0.587, -0.11, -0.14], [0.114, 0.17, -0.03]], np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """Digit scene: an image and all that is known about its n digits, from the first to the last drawn."""

    image: Image.Image  # RGB
    label: int  # digit with the largest visible box; -1 in an image without digits
    boxes: NDArray[np.float32]  # (n, 4), left, top, right and bottom in pixels, tight around the visible part
    labels: NDArray[np.int64]  # (n,), the digits
    masks: NDArray[np.bool_]  # (n, H, W), the visible part of each digit; no two overlap
    semantic: NDArray[np.uint8]  # (H, W), 0 for background, 1 + digit elsewhere


class DigitScenes:
    """Photographs with handwritten digits in them, made on demand and the same every time.

    A scene depends on `(seed, split, index)` and the settings alone, never on the order of access or the
    process. First digits are balanced: each ten scenes in a row begin with every digit once, in mixed order.

    Splits share neither photographs nor digits. The first scenes stay the same when the ``length`` grows. The ``size``,
    (height, width) or one number, is at least 32 pixels. Of ``num_digits``, or least and most, a scene holds as many as
    fit without hiding each other. ImportError, on first access, without scikit-image or scikit-learn.
    """

    classes = tuple("0123456789")

    def __init__(
        self,
        split: Split,
        length: int,
        *,
        size: int | tuple[int, int] = 96,
        num_digits: int | tuple[int, int] = 1,
        seed: int = 0,
    ) -> None:
        self.split: Split = split
        self.length = length
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        least, most = (num_digits, num_digits) if isinstance(num_digits, int) else num_digits
        self.num_digits = (least, most)
        self.seed = seed
        if split not in get_args(Split):
            raise ValueError(f"split is {split!r}; choose 'train' or 'val'")
        if length < 0 or seed < 0:
            raise ValueError(f"length ({length}) and seed ({seed}) must be at least 0")
        if min(self.size) < MIN_SIZE:
            raise ValueError(f"size is {self.size}; digits are legible from {MIN_SIZE} pixels a side")
        if not 0 <= least <= most:
            raise ValueError(f"num_digits is {num_digits}; give a number or (least, most), 0 <= least <= most")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Scene:
        index = range(self.length)[operator.index(index)]  # raises IndexError, takes negative ones
        stream = get_args(Split).index(self.split)
        rng = np.random.default_rng((self.seed, stream, index))
        block, place = divmod(index, 10)
        first = int(np.random.default_rng((self.seed, stream, block, 1)).permutation(10)[place])
        num_digits = int(rng.integers(self.num_digits[0], self.num_digits[1] + 1))
        digits = [first, *rng.integers(0, 10, max(0, num_digits - 1)).tolist()][:num_digits]

        canvas = _background(self.split, self.size, rng).astype(np.uint8)
        masks: list[NDArray[np.bool_]] = []  # as drawn, before later digits cover them
        labels: list[int] = []
        visible = np.empty((0, *self.size), np.bool_)
        for digit in digits:
            found = _place(_handwriting(self.split, digit, rng), visible, masks, num_digits, self.size, rng)
            if found is None:
                continue
            (top, left), ink = found
            height, width = ink.shape
            mask = np.zeros(self.size, np.bool_)
            mask[top : top + height, left : left + width] = ink > 0.5
            _paint(canvas[top : top + height, left : left + width], ink, rng)
            visible = np.concatenate([visible & ~mask, mask[None]])
            masks.append(mask)
            labels.append(digit)
        return _scene(canvas, visible, labels)


class Made:
    """Samples of digit scenes, each made once, then kept in memory: what ``take`` gives of a `Scene`."""

    def __init__(self, scenes: DigitScenes, take: Callable[[Scene], Any]) -> None:
        self.scenes, self.take = scenes, take
        self.made: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Any:
        if index not in self.made:
            self.made[index] = self.take(self.scenes[index])
        return self.made[index]


def _scene(canvas: NDArray[np.uint8], masks: NDArray[np.bool_], labels: list[int]) -> Scene:
    boxes = np.zeros((len(masks), 4), np.float32)
    semantic = np.zeros(canvas.shape[:2], np.uint8)
    for box, mask, digit in zip(boxes, masks, labels, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        semantic[mask] = 1 + digit
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Scene(
        image=Image.fromarray(canvas),
        label=labels[int(areas.argmax())] if labels else -1,
        boxes=boxes,
        labels=np.array(labels, np.int64),
        masks=masks,
        semantic=semantic,
    )


def _background(split: Split, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A part of one photograph, of any scale and place, mirrored half the time; `(H, W, 3)`, 0 to 255."""
    photographs = _photographs(split)
    photograph = photographs[rng.integers(len(photographs))]
    height, width = size
    largest = min(photograph.width / width, photograph.height / height)
    scale = largest * rng.uniform(0.35, 1.0)
    left = rng.uniform(0, photograph.width - scale * width)
    top = rng.uniform(0, photograph.height - scale * height)
    part = photograph.resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(left, top, left + scale * width, top + scale * height),
        reducing_gap=2.0,
    )
    pixels = np.asarray(part)
    return (pixels[:, ::-1] if rng.random() < 0.5 else pixels) * np.float32(rng.uniform(*DUSK))


def _place(
    writing: Image.Image,
    visible: NDArray[np.bool_],
    masks: list[NDArray[np.bool_]],
    num_digits: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[tuple[int, int], NDArray[np.float32]] | None:
    """Draw a digit at a size and a place where the earlier ones stay visible: (top, left) and its ink; or None."""
    areas = [mask.sum() for mask in masks]
    height = min(size) * rng.uniform(*DIGIT_HEIGHT) / num_digits**0.5
    for _ in range(30):
        ink = _draw(writing, max(height, MIN_DIGIT_HEIGHT), rng)
        room = size[0] - ink.shape[0], size[1] - ink.shape[1]
        height *= 0.95  # a little smaller, should this try fail
        if min(room) < 0:
            continue
        top, left = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        window = visible[:, top : top + ink.shape[0], left : left + ink.shape[1]]
        left_over = visible.sum((1, 2)) - (window & (ink > 0.5)).sum((1, 2))
        if all(left_over >= np.multiply(areas, 1 - MAX_HIDDEN)):
            return (top, left), ink
    return None


def _draw(writing: Image.Image, height: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn, slant and enlarge an 8x8 digit to about `height` pixels: opacity, 0 to 1, trimmed to the ink."""
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    slant, stretch = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15)
    zoom = height / 8
    cos, sin = math.cos(angle), math.sin(angle)
    forth = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.array([[stretch, slant], [0.0, 1.0]])
    back = np.linalg.inv(forth)  # PIL asks where in the source an output pixel lies
    side = math.ceil(1.5 * height)
    origin = writing.width / 2 - back @ np.array([side / 2, side / 2])
    (a, b), (d, e) = back
    values = np.asarray(
        writing.transform(
            (side, side), Image.Transform.AFFINE, (a, b, origin[0], d, e, origin[1]), Image.Resampling.BICUBIC
        ),
        np.float32,
    )
    # A threshold whose ramp is about one pixel wide at any size: smooth outlines, no blur.
    ink = np.clip(0.5 + (values - np.float32(rng.uniform(0.45, 0.55))) * np.float32(zoom), 0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(1)), np.flatnonzero((ink > 0.5).any(0))
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)  # keep the soft edge around it
    return ink[top : rows[-1] + 2, left : columns[-1] + 2]


def _paint(region: NDArray[np.uint8], ink: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Paint `ink` in a random bright colour that stands out from nearly all of `region`, in place."""
    colours = 255 - rng.uniform(0, 80, (12, 3))  # near white, then each channel turned down or not
    colours *= np.where(rng.random((12, 3)) < 0.35, rng.uniform(0.35, 0.7, (12, 3)), 1.0)
    beneath = region[::3, ::3].reshape(-1, 3) @ LUMA_AND_CHROMA  # every ninth pixel is enough
    differences = (colours.astype(np.float32) @ LUMA_AND_CHROMA)[:, None] - beneath
    sizes = np.abs(differences).sum(2) * np.sign(differences[..., 0])  # lighter counts, darker does not
    contrasts = np.percentile(sizes, 15, axis=1)
    enough = np.flatnonzero(contrasts >= MIN_CONTRAST)
    colour = colours[enough[0] if len(enough) else contrasts.argmax()]
    opacity = ink[..., None] * rng.uniform(0.85, 1.0)
    region[:] = (region * (1 - opacity) + colour * opacity + 0.5).astype(np.uint8)


def _handwriting(split: Split, digit: int, rng: np.random.Generator) -> Image.Image:
    choices = _digits(split)[digit]
    return choices[rng.integers(len(choices))]


@lru_cache
def _photographs(split: Split) -> tuple[Image.Image, ...]:
    data = _demo_module("skimage.data")
    images = []
    for name in PHOTOGRAPHS[split]:
        image = Image.fromarray(getattr(data, name)()).convert("RGB")
        shrink = min(1.0, 640 / min(image.size))  # scenes use no more, and large ones would cost time
        size = round(image.width * shrink), round(image.height * shrink)
        images.append(image.resize(size, Image.Resampling.BOX) if shrink < 1 else image)
    return tuple(images)


@lru_cache
def _digits(split: Split) -> tuple[tuple[Image.Image, ...], ...]:
    """The digits of a split by class; float images, 0 to 1, 12x12 with an empty margin of 2."""
    data = _demo_module("sklearn.datasets").load_digits()
    part = slice(NUM_TRAIN_DIGITS) if split == "train" else slice(NUM_TRAIN_DIGITS, None)
    values = np.pad(data.images[part].astype(np.float32) / 16, ((0, 0), (2, 2), (2, 2)))
    targets = data.target[part]
    return tuple(tuple(Image.fromarray(v) for v in values[targets == digit]) for digit in range(10))


def _demo_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "the digit scenes need scikit-image and scikit-learn: pip install 'sgformer[demo]'"
        ) from error
