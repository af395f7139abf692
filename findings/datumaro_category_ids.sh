#!/usr/bin/env bash
# Guessed: datumaro, which keeps the ids of images and annotations when it reads COCO and writes COCO, keeps those of
#   categories as well: a file passed through it is the same set.
# Happens: categories are numbered anew from 1 in the order of the file, whatever `reindex` says, so ids with gaps, as
#   COCO's own 1 to 90 for 80 classes, become others: 3 and 7 become 1 and 2. All else keeps its id, and nothing is said.
# Meets: who filters, merges or repairs a COCO file with it and then evaluates against the file as it was, or with a
#   detector whose classes are COCO's ids: boxes match, classes do not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datumaro==1.13.12
cd "$work"
venv/bin/python -W ignore - <<'PY'
import importlib.metadata
import json
import pathlib

from datumaro import Dataset
from PIL import Image

print("datumaro", importlib.metadata.version("datumaro"))
pathlib.Path("in/annotations").mkdir(parents=True)
pathlib.Path("in/images/train").mkdir(parents=True)
Image.new("RGB", (20, 10)).save("in/images/train/a.png")
content = {
    "images": [{"id": 30, "file_name": "a.png", "width": 20, "height": 10}],
    "categories": [{"id": 3, "name": "cat", "supercategory": ""}, {"id": 7, "name": "dog", "supercategory": ""}],
    "annotations": [
        {"id": 500, "image_id": 30, "category_id": 7, "iscrowd": 0, "bbox": [2, 1, 4, 3], "area": 12, "segmentation": []}
    ],
}
pathlib.Path("in/annotations/instances_train.json").write_text(json.dumps(content))
for reindex in (False, True):
    out = f"out-{reindex}"
    Dataset.import_from("in", "coco").export(out, "coco_instances", reindex=reindex)
    written = json.loads(pathlib.Path(out, "annotations/instances_train.json").read_text())
    categories = {category["name"]: category["id"] for category in written["categories"]}
    (annotation,) = written["annotations"]
    ids = annotation["id"], annotation["image_id"], annotation["category_id"]
    print(f"reindex={reindex}: categories", categories, "| annotation, image, category:", ids)
    assert categories == {"cat": 1, "dog": 2}
    assert ids == ((1, 1, 2) if reindex else (500, 30, 2))
PY
