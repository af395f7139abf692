#!/usr/bin/env bash
# Guessed: `nn.Upsample` of MLX gives the values of PyTorch's `Upsample`, whose name and arguments it has.
# Happens: only where size times scale comes out even. Else MLX lays the new map in the middle of the old one, and PyTorch at
#   its top left: halving 9 pixels samples at 1, 3, 5 and 7 in MLX, at 0.5, 2.5, 4.5 and 6.5 in PyTorch. By "nearest"
#   it takes other pixels for 9 times 1.5. With `align_corners=True`, and where it comes out even, all are right.
# Meets: who moves a pyramid or a decoder with odd maps to MLX: features lie up to half a pixel beside their place. Pad images
#   so that maps halve evenly.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "mlx[cpu]==0.32.4" torch==2.15.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch

print("mlx", mx.__version__, "torch", torch.__version__)
torches = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


def resized(mode, length, scale, corners=False):
    """What either makes of the numbers from 0 on, along the middle row."""
    row = np.arange(length, dtype=np.float32)
    x = np.broadcast_to(row[None, None, :, None], (1, length, length, 1)).copy()
    mine = np.array(nn.Upsample(scale_factor=float(scale), mode=mode, align_corners=corners)(mx.array(x)))[0, :, :, 0]
    options = {} if mode == "nearest" else {"align_corners": corners}
    layer = torch.nn.Upsample(scale_factor=float(scale), mode=torches[mode], **options)
    theirs = layer(torch.from_numpy(x).permute(0, 3, 1, 2))[0, 0].numpy()
    assert mine.shape == theirs.shape
    return mine[len(mine) // 2].round(3).tolist(), theirs[len(theirs) // 2].round(3).tolist()


print("9 pixels halved, linear: MLX", *resized("linear", 9, 0.5)[0], "PyTorch", *resized("linear", 9, 0.5)[1])
cases = {
    "9 pixels, twice": (9, 2, False),
    "8 pixels, half": (8, 0.5, False),
    "8 pixels, 1.5 times": (8, 1.5, False),
    "9 pixels, half": (9, 0.5, False),
    "9 pixels, 1.5 times": (9, 1.5, False),
    "9 pixels, half, corners": (9, 0.5, True),
}
off = {}
for name, (length, scale, corners) in cases.items():
    for mode in torches:
        if not (corners and mode == "nearest"):
            mine, theirs = resized(mode, length, scale, corners)
            off[name, mode] = round(float(np.abs(np.subtract(mine, theirs)).max()), 3)
    print(name, *(f"{mode} {off[name, mode]} off" for mode in torches if (name, mode) in off), sep="; ")
smooth = ("linear", "cubic")
even = [value for (name, _), value in off.items() if name not in list(cases)[3:5]]
uneven = [off[name, mode] for name in list(cases)[3:5] for mode in smooth] + [off["9 pixels, 1.5 times", "nearest"]]
as_told = max(even) < 1e-3 and min(uneven) > 0.1
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
