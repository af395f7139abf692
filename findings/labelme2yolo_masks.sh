#!/usr/bin/env bash
# Guessed: labelme2yolo writes a mask, as LabelMe's brush and its models draw them (`shape_type: mask`), by its outline where
#   polygons are asked for, or leaves it out with a word.
# Happens: it writes the two corners of the mask's box as if they were an outline: a class and four numbers, which readers
#   of YOLO take for the centre, width and height of a box. The object is elsewhere and of another size. Of a line the
#   same, of a point two numbers. With `--format bbox` the box of a mask is right.
# Meets: who annotates with LabelMe's models and trains on what this makes of it. Ultralytics takes boxes alone, of a whole
#   set with such lines. Set the output of LabelMe's models to polygons.
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
Image.new("1", (101, 41), 1).save(drawn, "PNG")  # columns 150 to 250, rows 50 to 90


def shape(label, kind, points, mask=None):
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, "mask": mask}


outline = [[150, 50], [250, 50], [250, 90], [150, 90]]
shapes = [
    shape("polygon", "polygon", outline),
    shape("mask", "mask", [[150, 50], [250, 90]], base64.b64encode(drawn.getvalue()).decode()),
]
image = {"imagePath": "a.png", "imageData": None, "imageWidth": 400, "imageHeight": 200}
whole = {"version": "6.0.0", "flags": {}, "shapes": shapes, **image}
pathlib.Path("set/a.json").write_text(json.dumps(whole))


def lines(kind):
    """Numbers behind the class, in pixels, and what the tool said of its failures."""
    command = ["labelme2yolo", "-d", "set", "-o", kind, "--format", kind, "--val_size", "0", "polygon", "mask"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (path,) = pathlib.Path(kind).rglob("labels/train/*.txt")
    rows = [list(map(float, line.split())) for line in path.read_text().splitlines()]
    print(kind, found := {int(row[0]): [round(v * (400, 200)[i % 2]) for i, v in enumerate(row[1:])] for row in rows})
    return found, said


polygons, said = lines("polygon")
boxes, _ = lines("bbox")
x, y, w, h = polygons[1]
print(f"labelme2yolo 0.4.0: the mask, read as a box, is {w} by {h} at {x}, {y}; it is 100 by 40 at 200, 70")
as_told = polygons == {0: sum(outline, []), 1: [150, 50, 250, 90]} and "Failed conversions: 0" in said
as_told = as_told and boxes == {0: [200, 70, 100, 40], 1: [200, 70, 100, 40]}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
