#!/usr/bin/env bash
# Guessed: pixels with `ignore_index` change no loss of segmentation-models-pytorch: it is the same with them as without.
# Happens: `SoftCrossEntropyLoss` and `SoftBCEWithLogitsLoss` set them to zero and divide by their number all the same. With
#   half an image unlabelled the loss, and so its gradient, is half; PyTorch's `cross_entropy` divides by the labelled ones.
#   Dice, Jaccard's cousins Tversky and Lovasz, and Focal are as guessed.
# Meets: who trains with borders, padding or unlabelled regions: batches weigh by how much of them is labelled, and beside a
#   Dice loss the balance of the two drifts. Divide by the share of labelled pixels, or take PyTorch's own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q segmentation-models-pytorch==0.6.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch import losses

print("segmentation-models-pytorch", smp.__version__)
torch.manual_seed(0)
logits, labels = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
ignored = labels.clone()
ignored[..., 4:] = 255  # the right half
one, yes = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8)).float()
part = yes.clone()
part[..., 4:] = 255
several = {
    "SoftCrossEntropyLoss": losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255),
    "DiceLoss": losses.DiceLoss("multiclass", ignore_index=255),
    "TverskyLoss": losses.TverskyLoss("multiclass", ignore_index=255),
    "LovaszLoss": losses.LovaszLoss("multiclass", ignore_index=255),
    "FocalLoss": losses.FocalLoss("multiclass", ignore_index=255),
    "PyTorch's cross entropy": torch.nn.CrossEntropyLoss(ignore_index=255),
}
ratios = {name: (f(logits, ignored) / f(logits[..., :4], labels[..., :4])).item() for name, f in several.items()}
binary = losses.SoftBCEWithLogitsLoss(ignore_index=255)
ratios["SoftBCEWithLogitsLoss"] = (binary(one, part) / binary(one[..., :4], yes[..., :4])).item()
for name, ratio in ratios.items():
    print(f"{name}: the loss with an ignored half is {ratio:.3f} of that of the other half alone")
halved = {name for name, ratio in ratios.items() if abs(ratio - 0.5) < 1e-3}
as_told = halved == {"SoftCrossEntropyLoss", "SoftBCEWithLogitsLoss"}
as_told = as_told and all(abs(ratio - 1) < 1e-3 for name, ratio in ratios.items() if name not in halved)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
