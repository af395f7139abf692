#!/bin/sh
# Guessed: tools that write Pascal VOC count pixels from 1, with xmax and ymax the last pixels of a box, as the challenge.
# Happens: of a box that covers columns 10 to 29 and rows 12 to 35, counted from 0, supervision writes the challenge's
#   11 13 30 36 and Datumaro, the library of CVAT, 10 12 30 36. Read by the challenge's rule, the latter is a pixel too
#   large to the left and to the top, and nothing in the file tells which rule it follows.
# Meets: who trains on VOC exports of small objects, or compares boxes of two exports: 9 % of the overlap at 20 pixels.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datumaro==1.13.12 supervision==0.31.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib.metadata
from pathlib import Path
from xml.etree import ElementTree

import cv2
import datumaro as dm
import numpy as np
import supervision as sv

pixels = np.zeros((64, 96, 3), np.uint8)
cv2.imwrite("0.png", pixels)
item = dm.DatasetItem(id="0", subset="train", media=dm.Image.from_numpy(pixels),
                      annotations=[dm.Bbox(10, 12, 20, 24, label=0)])
dm.Dataset.from_iterable([item], categories=["pen"]).export("dm", "voc_detection", save_media=True)
found = sv.Detections(xyxy=np.array([[10, 12, 30, 36]], float), class_id=np.array([0]))
sv.DetectionDataset(["pen"], ["0.png"], {"0.png": found}).as_pascal_voc(annotations_directory_path="sv")


def edges(folder):
    box = ElementTree.parse(next(Path(folder).rglob("*.xml"))).find(".//bndbox")
    return [float(box.findtext(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")]


print("VOC's rule: [11.0, 13.0, 30.0, 36.0]")
for name, folder in (("datumaro", "dm"), ("supervision", "sv")):
    print(name, importlib.metadata.version(name), edges(folder))
assert edges("dm") == [10, 12, 30, 36]
assert edges("sv") == [11, 13, 30, 36]
PYTHON
# Seen:
#   VOC's rule: [11.0, 13.0, 30.0, 36.0]
#   datumaro 1.13.12 [10.0, 12.0, 30.0, 36.0]
#   supervision 0.31.2 [11.0, 13.0, 30.0, 36.0]
