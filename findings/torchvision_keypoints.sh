#!/usr/bin/env bash
# Guessed: torchvision's `KeyPoints` count either from the pixel's centre or from its edge, the same in every transform, so that
#   a point goes where its pixel goes.
# Happens: flips mirror points as if whole numbers were pixel centres (x to width - 1 - x), resize, rotate, affine and crop
#   with resize as if they were edges, as boxes are. So in neither way of counting do all agree with the image: a point is
#   right after a flip and half a pixel off after a resize by two, or a whole pixel off after a flip and right elsewhere.
#   `RandomHorizontalFlip` before or after `Resize` is another point. With `expand=True` rotate moves boxes and points by up
#   to a pixel beside the image.
# Meets: who trains key points by these transforms; the error is systematic in one direction, and a mirrored test image
#   disagrees. Flip points yourself by width - x.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torchvision==0.29.2 torch==2.15.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torchvision
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

print("torchvision", torchvision.__version__)
HEIGHT, WIDTH = 41, 61
COLUMN, ROW = 22.0, 17.0  # the pixel in the middle of a blob


def centre(image):
    """The pixel in the middle of what is bright, (column, row)."""
    image = image[0].double()
    rows, columns = torch.arange(len(image)).double(), torch.arange(image.shape[1]).double()
    return (image.sum(0) * columns).sum() / image.sum(), (image.sum(1) * rows).sum() / image.sum()


def turned(one, expand):
    mode = {"interpolation": InterpolationMode.BILINEAR} if isinstance(one, tv_tensors.Image) else {}
    return F.rotate(one, 30, expand=expand, **mode)


rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
blob = tv_tensors.Image(torch.exp(-((columns - COLUMN) ** 2 + (rows - ROW) ** 2) / 32)[None])
ways = {
    "horizontal_flip": F.horizontal_flip,
    "vertical_flip": F.vertical_flip,
    "resize, twofold": lambda one: F.resize(one, [2 * HEIGHT, 2 * WIDTH]),
    "rotate by 180": lambda one: F.rotate(one, 180),
    "rotate by 30": lambda one: turned(one, False),
    "rotate by 30, expand": lambda one: turned(one, True),
}
off = {}
for name, way in ways.items():
    column, row = centre(way(blob))
    for counted, half in (("centres", 0.0), ("edges", 0.5)):
        point = tv_tensors.KeyPoints(torch.tensor([[COLUMN + half, ROW + half]]), canvas_size=(HEIGHT, WIDTH))
        x, y = way(point)[0].tolist()
        off[name, counted] = max(abs(x - half - column), abs(y - half - row)).item()
    print(f"{name}: off by {off[name, 'centres']:.2f} counted from centres, {off[name, 'edges']:.2f} from edges")
box = tv_tensors.BoundingBoxes(
    torch.tensor([[COLUMN - 3.5, ROW - 3.5, COLUMN + 4.5, ROW + 4.5]]), format="XYXY", canvas_size=(HEIGHT, WIDTH)
)
left, top, right, bottom = turned(box, True)[0].tolist()
column, row = centre(turned(blob, True))
of_boxes = max(abs((left + right - 1) / 2 - column), abs((top + bottom - 1) / 2 - row)).item()
print(f"a box around it after rotate by 30, expand: off by {of_boxes:.2f}")
as_told = off["horizontal_flip", "centres"] < 0.05 and abs(off["resize, twofold", "centres"] - 0.5) < 0.05
as_told = as_told and abs(off["horizontal_flip", "edges"] - 1) < 0.05 and off["resize, twofold", "edges"] < 0.05
as_told = as_told and off["rotate by 30", "edges"] < 0.1 and 0.5 < of_boxes < 1 and off["rotate by 180", "centres"] > 0.9
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
