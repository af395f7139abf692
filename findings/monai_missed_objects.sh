#!/usr/bin/env bash
# Guessed: MONAI's distances treat an object that was not found alike: infinite, or left out, for the greatest distance and for
#   its 95th percentile; and a class that is in no image has no mean.
# Happens: `HausdorffDistanceMetric` is infinite for a missed object, and with `percentile=95` it is nan, which the mean
#   leaves out: a model that misses objects has the better mean HD95. With reduction "mean_batch" Dice and IoU of a class
#   that no image has are 0, as if all were wrong, while one image's are nan.
# Meets: who reports HD95 as the challenges do, or averages over classes on a small split. Count the missed objects beside it
#   (`get_not_nans=True` gives the number that is left), and leave out classes that are nowhere.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q monai==1.6.1 torch==2.15.0 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PY'
import math
import sys

import monai
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU

print("monai", monai.__version__)
true, found = torch.zeros(2, 2, 24, 24)  # two images, one class
true[:, 4:12, 4:12] = 1
found[0, 7:15, 4:12] = 1  # three rows further down; nothing in the second image


def distances(percentile, which):
    metric = HausdorffDistanceMetric(include_background=True, percentile=percentile, get_not_nans=True)
    metric(found[which][:, None], true[which][:, None])
    mean, count = metric.aggregate()
    return mean.item(), int(count.item())


both, first, missed = slice(0, 2), slice(0, 1), slice(1, 2)
one = {percentile: distances(percentile, missed) for percentile in (None, 95)}
mean = {percentile: distances(percentile, both) for percentile in (None, 95)}
for percentile in (None, 95):
    name = "HD95" if percentile else "HD"
    print(f"{name}: mean of both images {mean[percentile][0]:.2f} over {mean[percentile][1]} of 2 objects")
print(f"HD95 of the image with a found object alone {distances(95, first)[0]:.2f}")
two_classes = [torch.stack([one, torch.zeros_like(one)], 1) for one in (found, true)]  # the second is nowhere
scores = {}
for kind in (DiceMetric, MeanIoU):
    for reduction in ("none", "mean_batch"):
        metric = kind(include_background=True, reduction=reduction)
        metric(*two_classes)
        scores[kind.__name__, reduction] = metric.aggregate()[..., 1].flatten().tolist()
        print(f"{kind.__name__}, {reduction}, the class that is nowhere: {scores[kind.__name__, reduction]}")
as_told = mean[None] == (math.inf, 2) and mean[95] == (distances(95, first)[0], 1) and one[95][1] == 0
as_told = as_told and all(
    math.isnan(value) if reduction == "none" else value == 0 for (_, reduction), values in scores.items() for value in values
)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
