#!/usr/bin/env bash
# Guessed: OpenCV 5, which takes NumPy's boolean arrays (OpenCV 4 refused them), computes `cv2.bitwise_not(mask)` as `~mask`.
# Happens: the answer is an array of dtype bool that is True everywhere. The bits of the bytes are turned, 1 to 254 and 0
#   to 255, and both count as True in NumPy; `bitwise_and`, `or` and `xor` are right. Arithmetic after it is worse: the
#   bytes are no valid booleans, and a sum taken as uint8 counts 254 and 255.
# Meets: who inverts masks (of a segmenter, of an annotation tool, `image > 0`) with OpenCV: code that raised under
#   OpenCV 4 now runs, and selects all pixels. Use `~mask`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/try.py" <<'PY'
import cv2
import numpy as np

print("OpenCV", cv2.__version__)
mask = np.zeros((20, 20), bool)
mask[3:9, 4:12] = True
try:
    inverse = cv2.bitwise_not(mask)
except cv2.error as error:
    print("bitwise_not of a boolean mask raises", type(error).__name__)
    assert cv2.__version__.startswith("4.")
else:
    print("dtype", inverse.dtype, "| True pixels", int(inverse.sum()), "instead of", int((~mask).sum()))
    print("bytes", np.unique(inverse.view(np.uint8)).tolist(), "| and:", int(cv2.bitwise_and(mask, mask).sum()))
    assert inverse.dtype == bool
    assert inverse.all()
    assert np.unique(inverse.view(np.uint8)).tolist() == [254, 255]
    assert cv2.bitwise_and(mask, mask).sum() == mask.sum() == 48
    assert cv2.__version__.startswith("5.")
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==4.12.0.88 numpy==2.2.6
"$work/venv/bin/python" "$work/try.py"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93
"$work/venv/bin/python" "$work/try.py"
