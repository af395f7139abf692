#!/usr/bin/env bash
# Guessed: ExecuTorch's own `constant_prop_pass`, run before a model is lowered, changes nothing but the speed: a layer that
#   multiplies by rows 8 to 12 of a weight multiplies by these rows.
# Happens: the folded rows stay a view of the whole weight, and XNNPACK takes the weight's first rows in their place. The
#   program runs, and its answers are others. Portable kernels are right, and so is XNNPACK after a copy of the constants.
# Meets: who splits a fused projection (queries, keys and values in one weight) and folds constants so that XNNPACK takes
#   the products; without folding it leaves them to slow kernels.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q executorch==1.5.1 torch==2.15.0 torchao==0.18.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/part.pte" 2>/dev/null <<'PY'
import importlib.metadata
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from executorch.runtime import Runtime

print("executorch", importlib.metadata.version("executorch"), "torch", torch.__version__.split("+")[0])


class Part(torch.nn.Module):
    """A product with some rows of a weight."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.weight = torch.nn.Parameter(torch.arange(96.0).view(12, 8) / 96)

    def forward(self, x):
        return F.linear(x, self.weight[self.start : self.start + 4])


@torch.no_grad()
def run(start, partitioner, *, fold, copy=False):
    program = torch.export.export(Part(start).eval(), (torch.ones(1, 8),))
    if fold:
        program = constant_prop_pass(program)
    if copy:
        for name, constant in program.constants.items():
            program.constants[name] = constant.clone()
    lowered = to_edge_transform_and_lower(program, partitioner=partitioner)
    Path(sys.argv[1]).write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(sys.argv[1]).load_method("forward")
    return method.execute([torch.ones(1, 8)])[0].round(decimals=2).flatten().tolist()


first, last = ([round(v, 2) for v in Part(start)(torch.ones(1, 8)).flatten().tolist()] for start in (0, 8))
found = {
    "XNNPACK": run(8, [XnnpackPartitioner()], fold=False),
    "portable, folded": run(8, [], fold=True),
    "XNNPACK, folded": run(8, [XnnpackPartitioner()], fold=True),
    "XNNPACK, folded and copied": run(8, [XnnpackPartitioner()], fold=True, copy=True),
}
print("rows 8 to 12 give", last)
for name, y in found.items():
    print(f"{name:27}", y)
near = lambda y, to: torch.allclose(torch.tensor(y), torch.tensor(to), atol=0.02)
assert near(found.pop("XNNPACK, folded"), first)
assert all(near(y, last) for y in found.values())
PY
