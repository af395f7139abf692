#!/usr/bin/env bash
# Guessed: what is passed in `label_fields` (class indices, annotation ids) comes back as it was, for boxes that stay.
# Happens: numbers travel through the float32 array of boxes. Ints in a list come back as floats, and ids above 2**24 as
#   other ids: COCO's 900100581904 as 900100587520; two ids can become one. In a NumPy array they come back as int64, and
#   wrong all the same. Strings stay. But a pipeline keeps what it took the labels of its first call for: after one call
#   with numbers, strings of digits become floats, and other strings a ValueError.
# Meets: who passes annotation ids beside boxes in order to know afterwards which masks, tracks or crowds belong to the
#   boxes that were kept. Pass positions (0, 1, 2, ...) or strings instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q albumentations==2.0.8 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import albumentations
import numpy as np
from albumentations import BboxParams, Compose, HorizontalFlip

print("albumentations", albumentations.__version__)
image, boxes = np.zeros((100, 200, 3), np.uint8), [[0, 0, 9, 9], [3, 3, 9, 9]]
numbers, digits = [16777217, 900100581904], ["16777217", "900100581904"]


def pipeline():
    return Compose([HorizontalFlip(p=1)], bbox_params=BboxParams("pascal_voc", label_fields=["ids"]))


def through(ids, flip=None):
    return (flip or pipeline())(image=image, bboxes=boxes, ids=ids)["ids"]


used = pipeline()
through([1, 2], used)
as_list, as_array, as_strings, later = (
    through(numbers),
    through(np.array(numbers)),
    through(digits),
    through(digits, used),
)
near = through([900100581904, 900100581905])
try:
    words = through(["a", "b"], used)
except ValueError as error:
    words = str(error)
for name, value in (
    ("list", as_list),
    ("array", as_array),
    ("strings", as_strings),
    ("strings after numbers", later),
    ("words after numbers", words),
    ("two neighbours", near),
):
    print(f"{name:22}", repr(value))
assert as_list == later == [16777216.0, 900100587520.0]
assert isinstance(as_list[0], float)
assert as_array.dtype == np.int64
assert as_array.tolist() == [16777216, 900100587520]
assert list(as_strings) == digits
assert "could not convert" in words
assert near[0] == near[1]
PY
