#!/usr/bin/env bash
# Guessed: torchvision's `batched_nms` keeps what `nms` keeps class by class, however many classes and wherever the boxes lie.
# Happens: up to 1,000 boxes on a CPU it moves each class away by the largest coordinate times its number, in float32. Two ways
#   to be wrong: a box left of or above the image (negative coordinates) lands on another class and is left out though nothing
#   overlaps it; and with 1,203 classes on an image of 10,000 pixels the coordinates are rounded to whole pixels, so about one
#   small object in a hundred is decided otherwise. From 1,001 boxes on it goes class by class and is right.
# Meets: who merges tiles whose frames lie beyond the image's corner, suppresses boxes that were not clipped, or finds small
#   objects of many classes (LVIS, Objects365) in large aerial images. Subtract the smallest coordinate first; call `nms` class
#   by class where classes times pixels exceed a million.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torchvision==0.29.2 torch==2.15.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torchvision
from torchvision.ops import batched_nms, box_iou, nms

print("torchvision", torchvision.__version__)


def by_class(boxes, scores, classes):
    kept = []
    for number in classes.unique():
        (own,) = torch.where(classes == number)
        kept += own[nms(boxes[own], scores[own], 0.5)].tolist()
    return set(kept)


apart = torch.tensor([[50.0, 50.0, 100.0, 100.0], [-51.0, -51.0, -1.0, -1.0]])
kept = batched_nms(apart, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5).tolist()
print(f"two boxes of two classes with an IoU of {box_iou(*apart[:, None]).item():.0f}: kept {kept}")
shifted = batched_nms(apart + 51, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5).tolist()
print(f"the same, moved to where all coordinates are positive: kept {shifted}")

torch.manual_seed(0)
wrong = {}
for classes, side, number in ((80, 1333, 900), (1203, 10_000, 900), (1203, 10_000, 1100)):
    others = 0
    for _ in range(20):
        corner = torch.rand(number // 2, 2) * (side - 32)
        first = torch.cat((corner, corner + 8 + 8 * torch.rand(number // 2, 2)), 1)
        boxes = torch.cat((first, first + 2 * torch.randn(number // 2, 4))).clamp(0, side)  # each object found twice
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels, scores = torch.randint(0, classes, (number // 2,)).repeat(2), torch.rand(number)
        others += len(set(batched_nms(boxes, scores, labels, 0.5).tolist()) ^ by_class(boxes, scores, labels))
    wrong[classes, side, number] = others / 20
    print(f"{number} boxes of {classes} classes, {side} pixels: {others / 20:.1f} decided otherwise than class by class")
as_told = kept == [0] and sorted(shifted) == [0, 1] and wrong[1203, 10_000, 900] > 4
as_told = as_told and wrong[80, 1333, 900] < 1 and wrong[1203, 10_000, 1100] == 0
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
