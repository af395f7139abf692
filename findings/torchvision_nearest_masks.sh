#!/usr/bin/env bash
# Guessed: a mask that torchvision's transforms resize together with image and boxes stays under them; the nearest pixel errs
#   to both sides alike.
# Happens: it moves by half a pixel of the new image to the bottom right, on average, for `Resize`, `RandomResizedCrop`
#   and the like take each pixel of a mask from the top left corner of its place in the old one, not from its
#   centre. Masks of 20 to 100 pixels share 95.6 % with the resized image's own, where the nearest to the centre shares
#   99.9 %. In a transform the mode cannot be chosen for masks alone: the image would be resized by it, too.
# Meets: who trains detectors with masks or segmenters with these transforms. Resize masks by themselves first, by
#   `functional.resize(mask, size, interpolation=InterpolationMode.NEAREST_EXACT)`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torchvision==0.29.2 torch==2.15.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

print("torchvision", torchvision.__version__)


def by_itself(mask, size):
    return v2.functional.resize(mask, size, interpolation=InterpolationMode.NEAREST_EXACT)


def whole(mask, size):
    ratio = mask.shape[-1] / mask.shape[-2]
    return v2.RandomResizedCrop(size, scale=(1, 1), ratio=(ratio, ratio))(mask)


def judge(resize):
    """How far masks of boxes lie beside the resized boxes, (down, right), and what they share with the resized image."""
    rng = np.random.default_rng(0)
    beside, shared = [], []
    for _ in range(400):
        height, width = rng.integers(200, 640, 2)
        box_height, box_width = rng.integers(20, 100, 2)
        top, left = rng.integers(0, height - box_height), rng.integers(0, width - box_width)
        mask = torch.zeros(1, height, width, dtype=torch.uint8)
        mask[:, top : top + box_height, left : left + box_width] = 1
        factor = rng.uniform(0.3, 1.7)
        size = [round(height * factor), round(width * factor)]
        new = resize(tv_tensors.Mask(mask), size)[0].bool()
        down, right = size[0] / height, size[1] / width
        rows, columns = new.any(1).nonzero(), new.any(0).nonzero()
        middle = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
        beside.append([middle[0] - (top + box_height / 2) * down, middle[1] - (left + box_width / 2) * right])
        image = v2.functional.resize(tv_tensors.Image(mask.float()), size, antialias=True)[0] > 0.5
        shared.append(((new & image).sum() / (new | image).sum()).item())
    return torch.tensor(beside).mean(0), np.mean(shared)


as_told = True
for name, resize, (least, most) in (
    ("Resize", lambda mask, size: v2.Resize(size, antialias=True)(mask), (0.3, 0.7)),
    ("RandomResizedCrop of the whole", whole, (0.3, 0.7)),
    ("nearest-exact", by_itself, (-0.1, 0.1)),
):
    beside, shared = judge(resize)
    print(f"{name}: beside its box by {beside[0]:.2f} down and {beside[1]:.2f} right, shares {shared:.1%} with the image")
    as_told &= all(least < value < most for value in beside.tolist())
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
