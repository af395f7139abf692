#!/usr/bin/env bash
# Guessed: a newer NumPy changes no metric, and for two empty masks (a class that is neither there nor found) Dice and
#   Jaccard of medpy agree: both are written to say 1.0.
# Happens: since NumPy 2.3 `medpy.metric.binary.dc` says nan there, with no more than a warning, while `jc` still says 1.0.
#   medpy waits for a ZeroDivisionError; `numpy.count_nonzero` gives NumPy's integers now, which divide to nan. One such
#   image makes the mean Dice of a set nan. With NumPy 2.2 both were 1.0.
# Meets: who evaluates segmentation image by image or class by class, where classes are missing from images.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/try.py" <<'PY'
import importlib.metadata
import math

import numpy as np
from medpy.metric.binary import dc, jc

print("medpy", importlib.metadata.version("medpy"), "numpy", np.__version__)
empty, half = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
half[:, :4] = True
mean = float(np.mean([dc(half, half), dc(empty, empty)]))
print("both empty: dice", dc(empty, empty), "jaccard", jc(empty, empty), "| mean dice with a perfect image:", mean)
assert dc(half, empty) == 0.0
assert jc(empty, empty) == 1.0
new = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 3)
assert math.isnan(dc(empty, empty)) if new else dc(empty, empty) == 1.0
assert math.isnan(mean) if new else mean == 1.0
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q medpy==0.5.2 numpy==2.3.5 scipy==1.16.3
"$work/venv/bin/python" -W ignore "$work/try.py"
"$work/venv/bin/pip" install -q numpy==2.2.6
"$work/venv/bin/python" -W ignore "$work/try.py"
