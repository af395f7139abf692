#!/usr/bin/env bash
# Guessed: a linear layer whose products torchao computes in int8 takes no rows as any other does, and gives none; if int8
#   of weights alone can do it, so can int8 of both.
# Happens: with Int8DynamicActivationInt8WeightConfig no rows are a TypeError ("'Tensor' and 'NoneType'"): the least and
#   greatest value of nothing give no zero point. Int8WeightOnlyConfig and PyTorch's own quantize_dynamic give no rows.
# Meets: who quantises a detector. Its box head sees the regions that were found, and stops at the first image without
#   one, long after images with objects were tried. Quantise the backbone alone (filter_fn), or the weights alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.15.0 torchao==0.18.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import copy
import sys

import torch
import torchao
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_


def rows(layer, number):
    try:
        return tuple(layer(torch.ones(number, 64)).shape)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


torch.manual_seed(0)
head = torch.nn.Sequential(torch.nn.Linear(64, 32))
own = torch.ao.quantization.quantize_dynamic(copy.deepcopy(head), {torch.nn.Linear})
weights, both = copy.deepcopy(head), copy.deepcopy(head)
quantize_(weights, Int8WeightOnlyConfig())
quantize_(both, Int8DynamicActivationInt8WeightConfig())
print("torch", torch.__version__, "torchao", torchao.__version__)
found = {}
for name, layer in {"float32": head, "quantize_dynamic": own, "int8 weights": weights, "int8 both": both}.items():
    found[name] = rows(layer, 3), rows(layer, 0)
    print(f"{name}: three rows {found[name][0]}, no rows {found[name][1]}")
*fine, last = found.values()
as_told = all(three == (3, 32) and none == (0, 32) for three, none in fine)
as_told = as_told and last[0] == (3, 32) and str(last[1]).startswith("TypeError")
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
