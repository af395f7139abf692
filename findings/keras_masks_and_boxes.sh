#!/usr/bin/env bash
# Guessed: Keras' augmentation layers, given images with their segmentation masks and boxes, move all of them alike.
# Happens: `RandomRotation` turns the image about its middle, and the mask by another map: at 5 degrees it lies 5 pixels
#   beside its object in an image of 64, at 30 degrees it is out of the image, and at 180 right. `RandomCrop` moves boxes
#   with rows and columns exchanged: what was cut off at the top is taken from x.
# Meets: who trains segmenters and detectors with these layers (seen with the backend PyTorch). Nothing is said, and losses
#   still fall. Draw masks and boxes over images before training.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q keras==3.15.1 torch==2.15.0 numpy==2.4.6
KERAS_BACKEND=torch KERAS_HOME="$work" "$work/venv/bin/python" -W ignore - <<'PY'
import sys

import keras
import numpy as np

print("keras", keras.__version__, keras.backend.backend())
SIDE = 64
rows, columns = np.mgrid[:SIDE, :SIDE]
mask = (((columns - 22) / 9) ** 2 + ((rows - 30) / 6) ** 2 <= 1).astype("uint8")
image = np.repeat(255.0 * mask[..., None], 3, -1).astype("float32")
edges = np.array([[13.0, 24.0, 32.0, 37.0]], "float32")  # of the mask


def numbers(value):
    return keras.ops.convert_to_numpy(value)


def agreement(degrees):
    """What the turned mask and the turned object share, of what either covers."""
    layer = keras.layers.RandomRotation((degrees / 360,) * 2, fill_mode="constant", interpolation="nearest", seed=0)
    turned = layer({"images": image[None], "segmentation_masks": mask[None, ..., None]}, training=True)
    seen, said = numbers(turned["images"])[0, ..., 0] > 127, numbers(turned["segmentation_masks"])[0, ..., 0] > 0
    return (seen & said).sum() / (seen | said).sum()


shared = {degrees: agreement(degrees) for degrees in (0, 5, 30, 90, 180)}
for degrees, share in shared.items():
    print(f"RandomRotation by {degrees} degrees: mask and object share {share:.0%}")
exchanged = right = 0
for seed in range(5):
    layer = keras.layers.RandomCrop(44, 52, seed=seed, bounding_box_format="xyxy")
    boxes = {"boxes": edges[None], "labels": np.zeros((1, 1))}
    cut = layer({"images": image[None], "bounding_boxes": boxes}, training=True)
    seen = np.argwhere(numbers(cut["images"])[0, ..., 0] > 127)
    top, left = seen.min(0)
    box = numbers(cut["bounding_boxes"]["boxes"])[0, 0]
    moved_down, moved_right = 24 - top, 13 - left
    print(f"RandomCrop: the object begins at column {left}, row {top}; its box at {box[0]:.0f}, {box[1]:.0f}")
    exchanged += [max(13 - moved_down, 0), max(24 - moved_right, 0)] == box[:2].tolist()
    right += [left, top] == box[:2].tolist()
as_told = shared[0] == shared[180] == 1 and max(shared[5], shared[30], shared[90]) < 0.4 and exchanged == 5 and right < 2
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
