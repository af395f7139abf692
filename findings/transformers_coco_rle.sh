#!/usr/bin/env bash
# Guessed: `post_process_instance_segmentation(..., return_coco_annotation=True)` gives masks in COCO's run-length encoding, as
#   the documentation says, one for each segment, which pycocotools reads.
# Happens: a mask is a flat list of start and length, start and length, of runs along rows, counted from 1. COCO's counts are
#   lengths alone, along columns, from a run of zeros on. Where the image has background, there is one list more than
#   segments: the first is the background's, and each list stands beside the next segment's label.
# Meets: who writes Mask2Former's or MaskFormer's results to a COCO file: pycocotools refuses the counts or reads other
#   pixels. Encode the map that comes without this argument by `pycocotools.mask.encode`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 torchvision==0.29.2 torch==2.15.0 pycocotools==2.0.11 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from pycocotools import mask as coco
from transformers import Mask2FormerImageProcessor

print("transformers", transformers.__version__)
HEIGHT, WIDTH = 6, 8
masks = torch.full((1, 2, HEIGHT, WIDTH), -20.0)
masks[0, 0, 1:3, 2:6] = masks[0, 1, 4:6, 0:3] = 20
classes = torch.full((1, 2, 4), -20.0)
classes[0, 0, 1] = classes[0, 1, 2] = 20
outputs = SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes)
process = Mask2FormerImageProcessor().post_process_instance_segmentation
as_map = process(outputs, target_sizes=[(HEIGHT, WIDTH)])[0]
as_coco = process(outputs, target_sizes=[(HEIGHT, WIDTH)], return_coco_annotation=True)[0]
print("the map\n", as_map["segmentation"].int().numpy())
print("segments", [(segment["id"], segment["label_id"]) for segment in as_coco["segments_info"]])
lists = [[int(value) for value in one] for one in as_coco["segmentation"]]
for one in lists:
    print("its 'COCO RLE'", one)
first = (as_map["segmentation"] == as_map["segments_info"][0]["id"]).numpy()
counts = coco.frPyObjects  # of uncompressed counts
true = np.diff(np.flatnonzero(np.diff(np.r_[2, first.T.ravel(), 2]))).tolist()
print("COCO's counts of segment 0", true)
assert (coco.decode(counts({"size": [HEIGHT, WIDTH], "counts": true}, HEIGHT, WIDTH)) == first).all()
flat = np.zeros(HEIGHT * WIDTH, bool)
for start, length in zip(lists[1][::2], lists[1][1::2], strict=True):
    flat[start - 1 : start - 1 + length] = True
along_rows = (flat.reshape(HEIGHT, WIDTH) == first).all()
print("the second list, as runs along rows from 1, is segment 0:", along_rows)
as_told = len(as_coco["segments_info"]) == 2 and len(lists) == 3 and along_rows and true not in lists
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
