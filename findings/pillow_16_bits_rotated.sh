#!/usr/bin/env bash
# Guessed: Pillow rotates an image of 16 bits (`I;16`) as it resizes one: by any filter, with numbers between those of the image.
# Happens: `rotate` and `transform` with BILINEAR or BICUBIC give numbers that are in no part of the image: a surface of 300 is
#   22 within, and all is below 64, for the two bytes of a pixel are taken for pixels. There is no error. NEAREST is right, and
#   so are `resize` with every filter and the same image as float32 (`F`).
# Meets: who rotates, shears or warps depth maps, radiographs, micrographs or thermal images of 16 bits, or hands them as PIL
#   images to transforms that do: the image is nearly black. Convert to mode `F` first, or to a tensor.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__)
surface = np.full((20, 20), 300, np.uint16)
surface[:, 10:] = 500
image, exact = Image.fromarray(surface), Image.fromarray(surface.astype(np.float32))
assert (image.mode, exact.mode) == ("I;16", "F")
ways = {
    "rotate": lambda one, filter_: one.rotate(10, filter_),
    "transform": lambda one, filter_: one.transform((20, 20), Image.Transform.AFFINE, (1, 0, 0.5, 0, 1, 0), filter_),
    "resize": lambda one, filter_: one.resize((33, 33), filter_),
}
off = {}
for name, way in ways.items():
    for filter_ in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
        said, true = (np.asarray(way(one, filter_)).astype(float)[4:-4, 4:-4] for one in (image, exact))
        off[name, filter_.name] = np.abs(said - true).max()
        print(f"{name}, {filter_.name}: from {said.min():.0f} to {said.max():.0f}, as float32 {true.min():.0f} to {true.max():.0f}")
wrong = {case for case, by in off.items() if by > 1}
as_told = wrong == {(name, filter_) for name in ways if name != "resize" for filter_ in ("BILINEAR", "BICUBIC")}
as_told = as_told and min(off[case] for case in wrong) > 400
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
