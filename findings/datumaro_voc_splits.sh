#!/bin/sh
# Guessed: a set whose splits hold images of one name, train/0 and val/0, exports to Pascal VOC as two images or fails.
# Happens: both go to one Annotations/0.xml and one JPEGImages/0.jpg; one split overwrites the other without a word, and
#   both lists name the same file: images are lost, and what is evaluated is what was learned from.
# Meets: who converts sets with a folder a split and numbered files, the usual case, to VOC by Datumaro (CVAT's library).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datumaro==1.13.12
cd "$folder"
venv/bin/python - <<'PYTHON'
import importlib.metadata
from pathlib import Path

import datumaro as dm
import numpy as np

items = [
    dm.DatasetItem(id="0", subset=subset, media=dm.Image.from_numpy(np.full((40, 40, 3), value, np.uint8)),
                   annotations=[dm.Bbox(place, 5, 10, 10, label=0)])
    for subset, value, place in (("train", 0, 5), ("val", 255, 20))
]
dm.Dataset.from_iterable(items, categories=["pen"]).export("voc", "voc_detection", save_media=True)
files = sorted(str(path.relative_to("voc")) for path in Path("voc").rglob("*") if path.is_file())
print("datumaro", importlib.metadata.version("datumaro"), "2 images in")
print(*files, sep="\n")
lists = [Path(f"voc/ImageSets/Main/{split}.txt").read_text().split() for split in ("train", "val")]
print("lists", lists)
assert sum("JPEGImages" in name for name in files) == sum("Annotations" in name for name in files) == 1
assert lists == [["0"], ["0"]]
PYTHON
# Seen:
#   datumaro 1.13.12 2 images in
#   Annotations/0.xml
#   ImageSets/Main/train.txt
#   ImageSets/Main/val.txt
#   JPEGImages/0.jpg
#   labelmap.txt
#   lists [['0'], ['0']]
