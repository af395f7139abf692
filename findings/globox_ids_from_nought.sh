#!/usr/bin/env bash
# Guessed: what globox writes as COCO is what pycocotools reads, so that detections equal to the annotations have an AP of 1
#   in both, as they have in globox's own evaluation.
# Happens: globox counts the ids of annotations from 0. pycocotools keeps the id of the annotation that a detection found,
#   and takes 0 for none: that detection is counted as wrong, without a word. Ids from 1 give 1.0.
# Meets: who converts YOLO, VOC, CVAT or Open Images to COCO by globox and evaluates by pycocotools, directly or through
#   a library on it. The fewer objects a class has, the more it costs. Add 1 to the ids of annotations.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q globox==2.9.0 pycocotools==2.0.11 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import importlib.metadata
import io
import json
import sys
from pathlib import Path

from globox import Annotation, AnnotationSet, BoundingBox, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def ap(path):
    """AP of detections that are the annotations of a file."""
    objects = json.loads(Path(path).read_text())["annotations"]
    found = [{key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for each in objects]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


def boxes(image, **score):
    place = [10 + 50 * image, 20, 40 + 50 * image, 90]
    box = BoundingBox(label="cell", xmin=place[0], ymin=place[1], xmax=place[2], ymax=place[3], **score)
    return Annotation(image_id=f"{image}.jpg", image_size=(320, 240), boxes=[box])


truth = AnnotationSet([boxes(image) for image in range(3)])
found = AnnotationSet([boxes(image, confidence=0.9) for image in range(3)])
truth.save_coco(Path("globox.json"), auto_ids=True)
written = json.loads(Path("globox.json").read_text())
print("globox", importlib.metadata.version("globox"), "pycocotools", importlib.metadata.version("pycocotools"))
print("ids of annotations:", [each["id"] for each in written["annotations"]])
for each in written["annotations"]:
    each["id"] += 1
Path("from_one.json").write_text(json.dumps(written))
own = round(float(COCOEvaluator(ground_truths=truth, predictions=found).ap()), 3)
print("AP of detections that are the annotations: globox", own, "pycocotools", ap("globox.json"), "with ids from 1", ap("from_one.json"))
as_told = own == ap("from_one.json") == 1.0 and ap("globox.json") < 0.9
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
