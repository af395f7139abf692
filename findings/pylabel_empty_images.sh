#!/usr/bin/env bash
# Guessed: a COCO file that pylabel reads and writes again holds as many objects as before, and its YOLO labels number
#   the classes as the dataset.yaml that it writes beside them.
# Happens: for each image without objects the object before it in the table is written once more, with the same id, on
#   the image that it belongs to. RLE masks are lost (`segmentation` null). YOLO labels keep the category ids of the
#   COCO file (3 and 7) beside a dataset.yaml with `nc: 2`, unless `cat_id_index=0` is passed.
# Meets: who converts sets with background images: copies are objects that no detector can find twice, so recall falls.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pylabel==0.1.55 numpy==2.2.6 pandas==2.3.3 scikit-learn==1.7.2
cd "$work"
venv/bin/python -W ignore - 2>/dev/null <<'PY'
import importlib.metadata
import json
import pathlib

from PIL import Image
from pylabel import importer

print("pylabel", importlib.metadata.version("pylabel"))
pathlib.Path("images").mkdir()
names = ["a.png", "b.png", "c.png"]
for name in names:
    Image.new("RGB", (20, 10)).save(f"images/{name}")
polygon, rle = [[2, 1, 6, 1, 6, 4, 2, 4]], {"counts": [0, 30, 170], "size": [10, 20]}
shared = {"image_id": 0, "area": 30}
content = {
    "images": [{"id": i, "file_name": name, "width": 20, "height": 10} for i, name in enumerate(names)],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {**shared, "id": 1, "category_id": 3, "iscrowd": 0, "bbox": [2, 1, 4, 3], "segmentation": polygon},
        {**shared, "id": 2, "category_id": 7, "iscrowd": 1, "bbox": [0, 0, 20, 10], "segmentation": rle},
    ],
}
pathlib.Path("in.json").write_text(json.dumps(content))
dataset = importer.ImportCoco("in.json", path_to_images="images")
dataset.export.ExportToCoco(output_path="out.json", cat_id_index=None)
written = json.loads(pathlib.Path("out.json").read_text())["annotations"]
print("2 objects on a.png, none on b.png and c.png; written:")
for annotation in written:
    print({key: annotation[key] for key in ("id", "image_id", "category_id", "segmentation")})
dataset.export.ExportToYoloV5(output_path="yolo/labels", copy_images=False)
labels = pathlib.Path("yolo/labels/a.txt").read_text()
described = pathlib.Path("yolo/dataset.yaml").read_text()
print(labels, described, sep="")
assert [annotation["id"] for annotation in written] == [0, 1, 1, 1]
assert {annotation["image_id"] for annotation in written} == {0}
assert [bool(annotation["segmentation"]) for annotation in written] == [True, False, False, False]
assert {line.split()[0] for line in labels.splitlines()} == {"3", "7"}
assert "nc: 2" in described
PY
