#!/usr/bin/env bash
# Guessed: what is passed in `label_fields` (class indices, annotation ids) comes back as it was, for boxes that stay.
# Happens: they travel through the float32 array of boxes. Ints come back as floats, and ids above 2**24 as other ids:
#   COCO's 900100581904 as 900100587520; two ids can become one. Strings of digits are taken for numbers, too, and come
#   back as the same floats. Other strings stay what they were.
# Meets: who passes annotation ids beside boxes in order to know afterwards which masks, tracks or crowds belong to the
#   boxes that were kept. Pass positions (0, 1, 2, ...) or words instead.
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
flip = Compose([HorizontalFlip(p=1)], bbox_params=BboxParams("pascal_voc", label_fields=["ids"]))
image, boxes = np.zeros((100, 200, 3), np.uint8), [[0, 0, 9, 9], [3, 3, 9, 9]]
numbers = [16777217, 900100581904]


def through(ids):
    return flip(image=image, bboxes=boxes, ids=ids)["ids"]


as_list, as_array = through(numbers), through(np.array(numbers))
as_text, as_words = (through([word + str(number) for number in numbers]) for word in ("", "id"))
small, near = through([1, 2]), through(np.array([900100581904, 900100581905]))
for name, value in (
    ("list", as_list),
    ("array", as_array),
    ("digits", as_text),
    ("words", as_words),
    ("small", small),
    ("two neighbours", near),
):
    print(f"{name:15}", repr(value))
assert as_list == as_array == as_text == [16777216.0, 900100587520.0]
assert all(isinstance(value, float) for value in small)
assert len(set(near)) == 1
assert list(as_words) == ["id" + str(number) for number in numbers]
PY
