#!/usr/bin/env bash
# Guessed: in the COCO file of labelme2coco (the one that labelme2yolo brings) an object's `category_id` is an `id` of the
#   file's own categories, and every shape is there or named.
# Happens: categories count from 1 and the objects' classes from 0, so that each object has the class before its own, and
#   those of the first class have none. Masks, which LabelMe's models draw, and rotated rectangles are left out without a word.
# Meets: who converts with it and leaves out what does not fit: the rest trains and evaluates well, with every name wrong.
#   pycocotools itself says nothing. Add 1 to each `category_id`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q labelme2yolo==0.4.0 pillow==12.3.0
cd "$work"
PATH="$work/venv/bin:$PATH" python - <<'PY'
import base64
import io
import json
import pathlib
import subprocess
import sys

from PIL import Image

pathlib.Path("set").mkdir()
Image.new("RGB", (400, 200)).save("set/a.png")
drawn = io.BytesIO()
Image.new("1", (21, 31), 1).save(drawn, "PNG")


def shape(label, kind, points, mask=None):
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, "mask": mask}


def square(x):
    return [[x, 20], [x + 10, 20], [x + 10, 30], [x, 30]]


names = ["cat", "dog", "cow"]
shapes = [shape(name, "polygon", square(20 + 20 * place)) for place, name in enumerate(names)]
shapes.append(shape("cat", "mask", [[150, 50], [170, 80]], base64.b64encode(drawn.getvalue()).decode()))
shapes.append(shape("dog", "oriented_rectangle", [[200, 50], [220, 70], [210, 80], [190, 60]]))
image = {"imagePath": "a.png", "imageData": None, "imageWidth": 400, "imageHeight": 200}
whole = {"version": "6.0.0", "flags": {}, "shapes": shapes, **image}
pathlib.Path("set/a.json").write_text(json.dumps(whole))

command = ["labelme2coco", "-d", "set", "-o", "coco", "--val_size", "0", *names]
said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
written = json.loads(pathlib.Path("coco/annotations/instances_train.json").read_text())
known = {each["id"]: each["name"] for each in written["categories"]}
found = {round(each["bbox"][0]): each["category_id"] for each in written["annotations"]}
print("labelme2coco 0.4.0: categories", known, "of five shapes", len(found))
for place, name in enumerate(names):
    number = found[20 + 20 * place]
    print(f"the {name} has category {number}: {known.get(number, 'none of them')}")
warned = [line for line in said.splitlines() if " WARN " in line or " ERROR " in line]
as_told = known == {1: "cat", 2: "dog", 3: "cow"} and found == {20: 0, 40: 1, 60: 2} and not warned
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
