#!/usr/bin/env bash
# Guessed: hotcoco, which refuses or counts what a format cannot hold when it writes YOLO and Pascal VOC, keeps the number of
#   objects when it writes CVAT's XML, whose `group_id` joins the parts of an object.
# Happens: each polygon of an object becomes an object, and a crowd becomes one ordinary box; neither is counted as lost. The
#   objects' own boxes, taken for detections, no longer have an AP of 1 against what comes back.
# Meets: who moves COCO's sets to CVAT for repair and back: objects cut by what is in front of them are in parts.
#   Join the parts by `group_id` first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hotcoco==1.3.0 pycocotools==2.0.11 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import importlib.metadata
import io
import json
import sys

from hotcoco import COCO
from pycocotools.coco import COCO as Truth
from pycocotools.cocoeval import COCOeval


def square(x, y, size=20):
    return [x, y, x + size, y, x + size, y + size, x, y + size]


def entry(number, polygons, box, **more):
    whole = {"id": number, "image_id": 1, "category_id": 1, "segmentation": polygons, "bbox": box, "iscrowd": 0}
    return whole | {"area": 400 * len(polygons)} | more


crowd = {"size": [100, 200], "counts": [16000, 1000, 3000]}
objects = [
    entry(1, [square(10, 10)], [10, 10, 20, 20]),
    entry(2, [square(60, 10), square(60, 50)], [60, 10, 20, 60]),
    entry(3, crowd, [160, 0, 10, 100], iscrowd=1, area=1000),
]
images = [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 100}]
whole = {"images": images, "categories": [{"id": 1, "name": "cell"}], "annotations": objects}
with open("whole.json", "w") as file:
    json.dump(whole, file)
told = COCO("whole.json").to_cvat("cvat.xml")
COCO.from_cvat("cvat.xml").save("back.json")
with open("back.json") as file:
    back = json.load(file)["annotations"]


def ap(path):
    """AP of the boxes as they were, less the crowd."""
    found = [{key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for each in objects[:2]]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = Truth(path)
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


print("hotcoco", importlib.metadata.version("hotcoco"), "says", told)
print("objects and crowds:", [each["iscrowd"] for each in objects], "back:", [each["iscrowd"] for each in back])
print("AP against the file", ap("whole.json"), "and against what comes back", ap("back.json"))
lost = {name: number for name, number in told.items() if name.startswith("skipped") and number}
as_told = [each["iscrowd"] for each in back] == [0, 0, 0, 0] and not lost and ap("whole.json") == 1 > ap("back.json")
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
