#!/usr/bin/env bash
# Guessed: a Pillow image written to a sample of litdata or of MosaicML's streaming (`pil`) comes back as it was.
# Happens: of a palette image the numbers come back and the palette does not: Pillow puts a ramp of grays in its place. As
#   RGB an image of flat colours is another one, almost black with few colours. Modes L, 1, I;16, RGBA and CMYK come back.
#   `png` of streaming, and a file's bytes, keep it.
# Meets: who packs data sets of PNG and GIF files, some of which have palettes, for training: those images are noise to the
#   model, their labels stay. Convert to RGB before writing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q litdata==0.2.76 mosaicml-streaming==0.13.0 torch==2.15.0 torchvision==0.29.2 pillow==13.0.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import sys

import numpy as np
from litdata.streaming.serializers import PILSerializer
from PIL import Image
from streaming.base.format.mds.encodings import mds_decode, mds_encode

print(*[f"{name} {importlib.metadata.version(name)}" for name in ("litdata", "mosaicml-streaming", "pillow")])
ways = {
    "litdata": lambda image: PILSerializer().deserialize(PILSerializer().serialize(image)[0]),
    "streaming, pil": lambda image: mds_decode("pil", mds_encode("pil", image)),
    "streaming, png": lambda image: mds_decode("png", mds_encode("png", image)),
}
colours = Image.fromarray(np.array([[[200, 30, 30], [30, 200, 30], [30, 30, 200]]], np.uint8)).quantize(3)
gray = Image.fromarray(np.array([[0, 100, 200]], np.uint8))
found = {}
for name, way in ways.items():
    for image in (colours, gray):
        back = way(image)
        found[name, image.mode] = np.array_equal(image.convert("RGB"), back.convert("RGB"))
        same = np.array_equal(np.asarray(image), np.asarray(back))
        print(f"{name}, mode {image.mode}: numbers {'as before' if same else 'others'}, as RGB", np.asarray(back.convert("RGB"))[0].tolist())
wrong = {case for case, right in found.items() if not right}
as_told = wrong == {("litdata", "P"), ("streaming, pil", "P")}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
