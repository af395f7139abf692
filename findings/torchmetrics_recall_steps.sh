#!/usr/bin/env bash
# Guessed: torchmetrics' `MeanAveragePrecision(backend="pycocotools")` is what pycocotools says of the same boxes.
# Happens: its 101 steps of recall and its ten of IoU are numbers of float32, some a little above the decimal, some below. A
#   recall that is a whole number of hundredths, as it is of 5, 10, 20, 25 or 50 objects, falls on the other side of its
#   step, and precision is read one place further on; an IoU of exactly 0.6 likewise. AP50 differs by half a point and more
#   for few objects.
# Meets: who compares a table by torchmetrics with one by pycocotools, or judges small test sets. Pass
#   `rec_thresholds=numpy.linspace(0, 1, 101).tolist()` and `iou_thresholds=numpy.linspace(0.5, 0.95, 10).tolist()`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torchmetrics==1.9.0 torchvision==0.29.2 torch==2.15.0 pycocotools==2.0.11 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import contextlib
import io
import sys

import numpy as np
import torch
import torchmetrics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

print("torchmetrics", torchmetrics.__version__)


def boxes(rng, count):
    """Objects of one class in one image, one detection each, some beside their object: (true, found, scores)."""
    true = np.stack([100 * np.arange(count), np.full(count, 10), rng.integers(20, 60, count), np.full(count, 40)], 1)
    found = true + np.stack([rng.integers(0, 25, count), *[np.zeros(count, int)] * 3], 1)
    return true.astype(float), found.astype(float), rng.permutation(count) / count


def by_pycocotools(true, found, scores):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        entries = [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box.tolist(), "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(true)
        ]
        image = {"id": 1, "height": 100, "width": 10000}
        truth.dataset = {"info": {}, "images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": entries}
        truth.createIndex()
        results = [
            {"image_id": 1, "category_id": 1, "bbox": box.tolist(), "score": float(score)}
            for box, score in zip(found, scores, strict=True)
        ]
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return judge.stats[0], judge.stats[1]


def by_torchmetrics(true, found, scores, **how):
    metric = MeanAveragePrecision(box_format="xywh", backend="pycocotools", **how)
    ones = torch.ones(len(true), dtype=torch.long)
    said = {"boxes": torch.tensor(found), "scores": torch.tensor(scores), "labels": ones}
    metric.update([said], [{"boxes": torch.tensor(true), "labels": ones}])
    found = metric.compute()
    return found["map"].item(), found["map_50"].item()


rng = np.random.default_rng(0)
apart, apart_told = [], []
for count in (4, 5, 10, 20, 25, 50):
    case = boxes(rng, count)
    usual, own = by_pycocotools(*case), by_torchmetrics(*case)
    steps = {"rec_thresholds": np.linspace(0, 1, 101).tolist(), "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist()}
    told = by_torchmetrics(*case, **steps)
    apart.append(max(abs(a - b) for a, b in zip(usual, own, strict=True)))
    apart_told.append(max(abs(a - b) for a, b in zip(usual, told, strict=True)))
    print(f"{count} objects: AP, AP50 by pycocotools {usual[0]:.4f} {usual[1]:.4f}, by torchmetrics {own[0]:.4f} {own[1]:.4f}")
print(f"greatest difference {max(apart):.4f}; with steps of float64 {max(apart_told):.1e}")
as_told = max(apart) > 0.003 and max(apart_told) < 1e-6
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
