#!/usr/bin/env bash
# Guessed: a mask with a hole that imantics writes as COCO has the same pixels when pycocotools reads it, or is written as RLE,
#   for COCO's polygons have no holes.
# Happens: the hole is written as one more polygon, and pycocotools adds polygons: it is filled. `area` is that of the mask
#   with its hole. Outlines run through the centres of pixels, so each side is a pixel short, and so is `bbox`. imantics'
#   own reading takes the hole out again and shows nothing.
# Meets: who makes COCO files of masks by it or by COCO Annotator, which is built on it: rings, windows, cells, roads around
#   blocks. Write RLE by pycocotools instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q imantics==0.1.12 opencv-python-headless==4.14.0.94 pycocotools==2.0.11 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import sys

import numpy as np
from imantics import Annotation, Category, Image, Mask
from pycocotools import mask as rle

print("imantics", importlib.metadata.version("imantics"), "pycocotools", importlib.metadata.version("pycocotools"))


def written(true):
    """What COCO's annotation of a mask says, and the mask that pycocotools and imantics make of it."""
    height, width = true.shape
    image = Image(image_array=np.zeros((height, width, 3), np.uint8))
    image.add(Annotation(image, Category("ring"), mask=Mask(true)))
    (entry,) = image.coco()["annotations"]
    read = rle.decode(rle.merge(rle.frPyObjects(entry["segmentation"], height, width))).astype(bool)
    return entry["area"], list(entry["bbox"]), read, Mask(true).polygons().mask(width, height).array.astype(bool)


ring = np.zeros((80, 100), bool)
ring[10:50, 10:60] = True
ring[20:40, 20:50] = False
area, box, read, own = written(ring)
print(f"a ring of {ring.sum()} pixels: area {area}, bbox {box}, read by pycocotools {read.sum()} pixels,")
print(f"of them {(read & ~ring).sum()} in the hole; read by imantics {own.sum()}")
as_told = area == ring.sum() == own.sum() and box == [10, 10, 49, 39]
as_told = as_told and read[30, 35] and (read & ~ring).sum() == 600
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
