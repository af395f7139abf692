"""A tiny data set in the layout of class folders: each class is a colour, so that anything can learn it."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 40), "red": (200, 30, 40)}


def make_class_folders(root: Path, *, num_train: int = 8, num_val: int = 4, size: int = 40) -> Path:
    """Write ``train/<class>/`` and ``val/<class>/`` with noisy images in the class's colour."""
    rng = np.random.default_rng(0)
    for split, num in (("train", num_train), ("val", num_val)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                noise = rng.normal(0, 20, (size, size + 8, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root
