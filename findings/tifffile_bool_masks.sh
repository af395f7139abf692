#!/usr/bin/env bash
# Guessed: a boolean mask that tifffile writes as TIFF is read by Pillow, OpenCV and scikit-image's default reader as
#   the same mask.
# Happens: tifffile writes one bit a pixel with the photometric interpretation "white is zero" and leaves the bits as
#   they are. Readers that go by the file's own word give the opposite: objects are background and background objects.
#   tifffile itself and GDAL (rasterio) ignore that word and give the mask back, so that a round trip shows nothing.
# Meets: who writes masks from microscopy or remote sensing with tifffile and trains with a loader that reads by Pillow
#   or OpenCV. `mask.astype("uint8")`, or `photometric="minisblack"`, is read alike by all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tifffile==2026.3.3 numpy==2.4.6 pillow==13.0.0 opencv-python-headless==5.0.0.93 rasterio==1.4.4
cd "$work"
venv/bin/python -W ignore - <<'PY'
import cv2
import numpy as np
import PIL
import rasterio
import tifffile
from PIL import Image

print("tifffile", tifffile.__version__, "Pillow", PIL.__version__, "OpenCV", cv2.__version__)
mask = np.zeros((40, 64), bool)
mask[5:15, 8:40] = True


def share(pixels):
    return float((pixels > 0).mean())


def read(name):
    with rasterio.open(name) as file:
        by_gdal = file.read(1)
    return {
        "tifffile": share(tifffile.imread(name)),
        "rasterio": share(by_gdal),
        "Pillow": share(np.asarray(Image.open(name))),
        "OpenCV": share(cv2.imread(name, cv2.IMREAD_UNCHANGED)),
    }


tifffile.imwrite("bool.tif", mask)
tifffile.imwrite("black.tif", mask, photometric="minisblack")
tifffile.imwrite("bytes.tif", mask.astype(np.uint8))
print("objects cover", share(mask), "| as read:")
for name in ("bool.tif", "black.tif", "bytes.tif"):
    print(f"{name:10}", tifffile.TiffFile(name).pages[0].photometric.name, read(name))
right, wrong = 0.125, 0.875
assert share(mask) == right
assert read("bool.tif") == {"tifffile": right, "rasterio": right, "Pillow": wrong, "OpenCV": wrong}
assert set(read("black.tif").values()) == set(read("bytes.tif").values()) == {right}
PY
