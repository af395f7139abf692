"""A tiny data set with masks: stripes whose colour is their class, so that anything can learn it."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "grass", "brick")
COLOURS = np.array([(40, 90, 220), (40, 170, 50), (200, 50, 40)])
IGNORE = 255


def stripes(seed: int, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of vertical stripes, and its class map with an ignored border of one pixel."""
    rng = np.random.default_rng(seed)
    columns = np.repeat(rng.permutation(3), -(-size[1] // 3))[: size[1]]
    mask = np.broadcast_to(columns, size).astype(np.uint8).copy()
    pixels = np.clip(COLOURS[mask] + rng.normal(0, 15, (*size, 3)), 0, 255).astype(np.uint8)
    mask[0] = IGNORE
    return pixels, mask


def make_mask_folders(root: Path, *, num_train: int = 6, num_val: int = 3) -> Path:
    """Write ``images/{train,val}``, ``annotations/{train,val}`` and ``classes.txt``."""
    for split, num in (("train", num_train), ("val", num_val)):
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for i in range(num):
            # Images of two sizes, so that nothing relies on one.
            pixels, mask = stripes(i + 100 * (split == "val"), (48, 64) if i % 2 else (61, 45))
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(root / "annotations" / split / f"{i}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
