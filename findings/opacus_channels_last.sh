#!/usr/bin/env bash
# Guessed: Opacus gives each image's gradient of a convolution whatever the order in memory; shapes are the same, and
#   PyTorch's own gradient does not depend on it.
# Happens: with an input in `torch.channels_last` each image's gradients of Conv2d's weight are wrong by their own size,
#   without a word, those of 1x1 kernels too: windows are cut out by strides that only hold for maps with the channels
#   second. The functorch mode is right.
# Meets: who trains with Opacus a network whose maps have the channels last, because the user asked for it (it is the usual
#   advice) or because it computes with tokens between convolutions. Say grad_sample_mode="functorch".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opacus==1.6.0 torch==2.15.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import copy
import sys

import opacus
import torch

print("opacus", opacus.__version__, "torch", torch.__version__)
torch.manual_seed(0)
x, pull = torch.randn(3, 4, 9, 11), torch.randn(3, 6, 9, 11)


def error(functorch, order, size):
    """The largest error of an image's gradient, as a share of the largest gradient."""
    conv = torch.nn.Conv2d(4, 6, size, padding=size // 2)
    wrapped = opacus.GradSampleModule(
        torch.nn.Sequential(copy.deepcopy(conv)), loss_reduction="sum", force_functorch=functorch
    )
    (wrapped(x.contiguous(memory_format=order)) * pull).sum().backward()
    found = next(iter(wrapped.parameters())).grad_sample
    exact = [torch.autograd.grad((conv(x[i : i + 1]) * pull[i : i + 1]).sum(), conv.weight)[0] for i in range(len(x))]
    exact = torch.stack(exact)
    return ((found - exact).abs().max() / exact.abs().max()).item()


found = {}
for way in ("hooks", "functorch"):
    for order in (torch.contiguous_format, torch.channels_last):
        for size in (3, 1):
            found[way, order, size] = error(way == "functorch", order, size)
            print(f"{way:10}{str(order):26}{size}x{size}: {found[way, order, size]:.1e}")
wrong = {case for case, value in found.items() if value > 1e-4}
as_told = wrong == {("hooks", torch.channels_last, 3), ("hooks", torch.channels_last, 1)}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
