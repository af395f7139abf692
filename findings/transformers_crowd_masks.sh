#!/usr/bin/env bash
# Guessed: the image processors of DETR and its kin in transformers leave crowds out of COCO's annotations, boxes and
#   masks alike.
# Happens: with `return_segmentation_masks=True` crowds are left out of boxes and classes, and their masks are kept: an
#   IndexError about shapes for each image that has one, in six of seven processors. An image without objects is a
#   RuntimeError, and a mask as compressed RLE, as pycocotools writes it, a ValueError. RT-DETR's takes the option and
#   gives no masks at all. Without masks all are right.
# Meets: who fine-tunes such a model for instance masks on COCO, where many images have a crowd, or on sets with empty
#   images: the loader stops somewhere in the first epoch. Leave crowds out before, turn RLE into polygons or
#   uncompressed RLE, and skip images without objects.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.23.0 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import transformers
from PIL import Image
from pycocotools import mask as coco

print("transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
image = Image.new("RGB", (120, 80), (90, 90, 90))
pixels = np.zeros((80, 120), np.uint8, order="F")
pixels[10:60, 20:100] = 1
ends = np.flatnonzero(np.diff(pixels.ravel(order="F"))) + 1
counts = np.diff([0, *ends, pixels.size]).tolist()
compressed = {"size": [80, 120], "counts": coco.encode(pixels)["counts"].decode()}


def one(shape, crowd=0):
    return {"id": 1, "image_id": 1, "category_id": 3, "bbox": [20, 10, 80, 50], "area": 4000, "iscrowd": crowd, "segmentation": shape}


polygon = one([[20, 10, 100, 10, 100, 60, 20, 60]])
crowd = one({"size": [80, 120], "counts": counts}, 1)
cases = {"an object": [polygon], "and a crowd": [polygon, crowd], "no object": [], "compressed RLE": [one(compressed)]}
names = ["Detr", "ConditionalDetr", "DeformableDetr", "GroundingDino", "Yolos", "RfDetr", "RTDetr"]
said = {}
for name in names:
    processor = getattr(transformers, name + "ImageProcessor")()
    for case, objects in cases.items():
        for masks in (False, True):
            options = {"return_segmentation_masks": True} if masks else {}
            try:
                known = {"image_id": 1, "annotations": objects}
                labels = processor(images=image, annotations=known, return_tensors="pt", **options)["labels"][0]
                said[name, case, masks] = (len(labels["class_labels"]), len(labels["masks"]) if "masks" in labels else None)
            except (IndexError, RuntimeError, ValueError) as error:
                said[name, case, masks] = type(error).__name__
    print(name, *(f"{case}: {said[name, case, False]}, with masks {said[name, case, True]}" for case in cases), sep="; ")
right = {"an object": (1, 1), "and a crowd": "IndexError", "no object": "RuntimeError", "compressed RLE": "ValueError"}
as_told = all(said[name, case, True] == right[case] for name in names[:-1] for case in cases)
as_told = as_told and all(said[name, case, False] == (len(cases[case]) if case != "and a crowd" else 1, None) for name in names for case in cases)
as_told = as_told and said["RTDetr", "an object", True] == (1, None)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
