#!/usr/bin/env bash
# Guessed: a lossless optimiser leaves class maps alone: Pillow and OpenCV read the same numbers from the PNG file as before.
# Happens: oxipng keeps colours, not numbers. A gray map of the ids 0, 3, 17, 80 and 150 becomes a palette image whose indices are
#   0 to 4; a map of 0 and 255 has one bit, True and False to NumPy; in a palette map (as Pascal VOC's) the indices are numbered
#   anew, and two classes of one colour become one. A map of 16 bits whose ids are multiples of 257 has eight.
#   `np.asarray(Image.open(...))` gives the new numbers, which are ids of other classes; OpenCV still gives the gray ones right.
# Meets: who runs such a tool, or an image pipeline or archive that has it within, over a data set with masks: which files are
#   changed depends on the classes in them. Leave masks out, or turn gray palettes back by `.convert("L")`; oxipng with
#   `color_type_reduction=False, palette_reduction=False, bit_depth_reduction=False, grayscale_reduction=False` keeps them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyoxipng==9.1.1 pillow==13.0.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import io
import sys

import cv2
import numpy as np
import oxipng
from PIL import Image

print("pyoxipng", importlib.metadata.version("pyoxipng"))
rng = np.random.default_rng(0)


def map_of(*ids):
    """Squares of 20 pixels, each of one of the ids; all occur."""
    order = np.resize(np.array(ids), 48)
    rng.shuffle(order)
    return np.kron(order.reshape(6, 8), np.ones((20, 20), int)).astype(np.uint16 if max(ids) > 255 else np.uint8)


def coloured(ids, colours):
    image = Image.fromarray(ids)
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image


one_colour = np.zeros((256, 3))
one_colour[1:4] = (255, 0, 0), (0, 255, 0), (255, 0, 0)  # 1 and 3 are red
maps = {
    "gray, five ids": Image.fromarray(map_of(0, 3, 17, 80, 150)),
    "gray, 0 and 255": Image.fromarray(map_of(0, 255)),
    "gray, 20 ids": Image.fromarray(map_of(*range(19), 255)),
    "palette": coloured(map_of(0, 3, 17, 20, 255), rng.integers(0, 256, (256, 3))),
    "palette, two classes red": coloured(map_of(1, 2, 3), one_colour),
    "16 bits, multiples of 257": Image.fromarray(map_of(*(257 * n for n in range(20)))),
}
kept = {"color_type_reduction": False, "palette_reduction": False, "bit_depth_reduction": False, "grayscale_reduction": False}
same, options_keep, as_gray = set(), set(), set()
for name, image in maps.items():
    file = io.BytesIO()
    image.save(file, "PNG")
    smaller = oxipng.optimize_from_memory(file.getvalue())
    after, ids = Image.open(io.BytesIO(smaller)), np.asarray(image)
    said = np.asarray(after)
    print(f"{name}: {image.mode} {np.unique(ids)[:6].tolist()} -> {after.mode} {np.unique(said)[:6].tolist()}")
    same |= {name} if said.dtype == ids.dtype and np.array_equal(said, ids) else set()
    careful = np.asarray(Image.open(io.BytesIO(oxipng.optimize_from_memory(file.getvalue(), **kept))))
    options_keep |= {name} if careful.dtype == ids.dtype and np.array_equal(careful, ids) else set()
    by_opencv = cv2.imdecode(np.frombuffer(smaller, np.uint8), cv2.IMREAD_GRAYSCALE)
    as_gray |= {name} if np.array_equal(by_opencv, ids) else set()
print("OpenCV in gray reads the ids of:", sorted(as_gray))
print("with the four options the same are:", sorted(options_keep))
as_told = same == {"gray, 20 ids"} and options_keep == set(maps)
as_told = as_told and as_gray == {name for name in maps if name.startswith("gray")}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
