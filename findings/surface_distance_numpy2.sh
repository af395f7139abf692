#!/usr/bin/env bash
# Guessed: a package that imports and gives right distances under NumPy 2 works under NumPy 2.
# Happens: surface-distance 0.1, whose releases name no upper bound, works until the first image in which one of the two
#   masks is empty. Only then it asks for `np.Inf`, which NumPy 2 has no more, and raises; Dice of two empty masks
#   likewise asks for `np.NaN`. With NumPy 1 the answers are inf and nan.
# Meets: who evaluates boundaries class by class: the evaluation ends at the first image without the class, however late.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/try.py" <<'PY'
import numpy as np
import surface_distance as sd

empty, there = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
there[2:5, 2:5] = True


def answer(function):
    try:
        return float(function())
    except AttributeError as error:
        return str(error).split(".")[0] + "." + str(error).split(".")[1]


def hausdorff(a, b):
    return sd.compute_robust_hausdorff(sd.compute_surface_distances(a, b, (1, 1)), 100)


print("numpy", np.__version__)
shifted = answer(lambda: hausdorff(there, np.roll(there, 1, 1)))
missing = answer(lambda: hausdorff(there, empty))
dice = answer(lambda: sd.compute_dice_coefficient(empty, empty))
print("shifted:", shifted, "| one mask empty:", missing, "| dice, both empty:", dice)
assert shifted == 1.0
if np.__version__ < "2":
    assert missing == float("inf")
    assert np.isnan(dice)
else:
    assert "np.Inf" in missing
    assert "np.NaN" in dice
PY
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q surface-distance==0.1 numpy==2.2.6 scipy==1.15.3
"$work/venv/bin/pip" list 2>/dev/null | grep surface
"$work/venv/bin/python" "$work/try.py"
"$work/venv/bin/pip" install -q numpy==1.26.4
"$work/venv/bin/python" "$work/try.py"
