#!/usr/bin/env bash
# Guessed: PEFT's adapters of a convolution change nothing before they are trained, and merged into it they compute what they
#   computed beside it.
# Happens: OFT begins as the identity, and yet the outputs of a convolution with a kernel of more than one pixel are other ones
#   from the first step on, by more than they are large: the image is cut up in one order and put together in another. What
#   is merged is another model again. And where `padding_mode` is "reflect" or "circular", LoRA, DoRA, LoHa and LoKr pad their
#   own part with zeros: merged, the edges are other ones than those that were trained. With zeros as padding these four, and
#   with a kernel of one pixel all, are as guessed.
# Meets: who adapts a vision backbone with convolutions by OFT, or one that is padded by reflection, as for panoramas,
#   restoration and styles. Use LoRA on convolutions; compare outputs after `get_peft_model` and after `merge_and_unload`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q peft==0.21.2 torch==2.15.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import peft
import torch

print("peft", peft.__version__)
x = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))
kinds = {
    "OFT": lambda: peft.OFTConfig(target_modules=["0"], oft_block_size=4, r=0),
    "LoRA": lambda: peft.LoraConfig(target_modules=["0"], r=4),
    "DoRA": lambda: peft.LoraConfig(target_modules=["0"], r=4, use_dora=True),
    "LoHa": lambda: peft.LoHaConfig(target_modules=["0"], r=4),
    "LoKr": lambda: peft.LoKrConfig(target_modules=["0"], r=4),
}
convolutions = {
    "kernel 1": {"kernel_size": 1},
    "kernel 3, zeros": {"kernel_size": 3, "padding": 1},
    "kernel 3, reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "kernel 3, circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}
begins, merges = {}, {}
for kind, config in kinds.items():
    for name, options in convolutions.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, **options)).eval()
        with torch.no_grad():
            alone = model(x)
            adapted = peft.get_peft_model(model, config()).eval()
            begins[kind, name] = ((adapted(x) - alone).norm() / alone.norm()).item()
            for parameter in adapted.parameters():
                if parameter.requires_grad:  # as if trained
                    parameter.add_(0.1 * torch.randn_like(parameter))
            beside = adapted(x)
            merged = adapted.merge_and_unload()(x)
        merges[kind, name] = ((merged - beside).norm() / beside.norm()).item()
        print(f"{kind}, {name}: untrained off by {begins[kind, name]:.2f} of its norm, merged off by {merges[kind, name]:.2f}")
wrong_start = {case for case, by in begins.items() if by > 0.5}
as_told = wrong_start == {("OFT", name) for name in convolutions if name != "kernel 1"}
as_told = as_told and all(by < 1e-4 for case, by in begins.items() if case not in wrong_start)
as_told = as_told and all(
    by > 1e-3 if "reflect" in name or "circular" in name else by < 1e-4 for (kind, name), by in merges.items() if kind != "OFT"
)
as_told = as_told and merges["OFT", "kernel 1"] < 1e-4 and merges["OFT", "kernel 3, zeros"] > 0.5
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
