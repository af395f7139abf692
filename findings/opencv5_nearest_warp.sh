#!/usr/bin/env bash
# Guessed: `warpAffine` with INTER_NEAREST takes each label once when a mask is moved by half a pixel, and twice when it is
#   enlarged twofold, whatever the version: a shift moves all columns alike.
# Happens: OpenCV 5 rounds positions that lie between two pixels to the even one. Moved by half a pixel, columns 0 1 2 3 4
#   become 0 0 2 2 4: every second column and row is lost, the others are doubled. Enlarged twofold they are
#   0 0 1 2 2 2 3 4 4 4: three of an even one, one of an odd one. OpenCV 4 gives 0 1 2 3 4 and 0 1 1 2 2 3 3.
# Meets: who augments masks by affine maps (albumentations and others call it so) with centres or shifts of half a pixel,
#   as the centre of an image with an even number of columns is: lines of one pixel vanish or double.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/try.py" <<'PY'
import cv2
import numpy as np

print("OpenCV", cv2.__version__)
columns = np.arange(8, dtype=np.uint8)[None]


def warp(image, matrix, size):
    return cv2.warpAffine(image, np.array(matrix, np.float64), size, flags=cv2.INTER_NEAREST)


moved = warp(columns, [[1, 0, 0.5], [0, 1, 0]], (8, 1))[0].tolist()
doubled = warp(columns, [[2, 0, 0], [0, 1, 0]], (14, 1))[0].tolist()
lines = np.zeros((64, 64), np.uint8)
lines[:, 9::8] = 1  # thin objects, one pixel wide, in odd columns
kept = int(warp(lines, [[1, 0, 0.5], [0, 1, 0]], (64, 64)).sum())
print("moved by half a pixel", moved, "| enlarged twofold", doubled, "| pixels of thin lines", int(lines.sum()), "->", kept)
new = cv2.__version__.startswith("5.")
assert moved == ([0, 0, 2, 2, 4, 4, 6, 6] if new else [0, 1, 2, 3, 4, 5, 6, 7])
assert doubled[:10] == ([0, 0, 1, 2, 2, 2, 3, 4, 4, 4] if new else [0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
assert kept == (0 if new else lines.sum())
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==4.12.0.88 numpy==2.2.6
"$work/venv/bin/python" "$work/try.py"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93
"$work/venv/bin/python" "$work/try.py"
