#!/usr/bin/env bash
# Guessed: `place // 64` of whole numbers, such as the row of a pixel by its place, stays a whole number in a Core ML program.
# Happens: coremltools divides whole numbers, and then casts the quotient to float, because "PyTorch's floor_divide always
#   returns fp32", which it does not. By default a program computes in float16, so the quotient is a half: beyond 2,048 not
#   every whole number exists. The remainder, `%`, stays whole. Where the quotient is an index, the conversion may stop.
# Meets: who computes places, rows, windows or cells in a model and converts it for Apple's devices.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q coremltools==9.0 torch==2.15.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PY'
import coremltools
import numpy as np
import torch

print("coremltools", coremltools.__version__, "torch", torch.__version__.split("+")[0])


class Place(torch.nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, place):
        return self.compute(place)


def kind(compute, precision=None):
    """PyTorch's answer to whole numbers and its type, and the types of the steps of the Core ML program."""
    place = torch.tensor([[4 * 2049, 4 * 4097]], dtype=torch.int32)
    program = torch.export.export(Place(compute), (place,)).run_decompositions({})
    options = {"compute_precision": precision} if precision else {}
    model = coremltools.convert(
        program, minimum_deployment_target=coremltools.target.iOS17, skip_model_load=True, **options
    )
    steps = model._mil_program.functions["main"].operations
    types = [step.outputs[0].dtype.__name__ for step in steps if step.op_type != "const"]
    return compute(place), types


half = kind(lambda place: place // 4)
single = kind(lambda place: place // 4, coremltools.precision.FLOAT32)
rest = kind(lambda place: place % 4)
print("PyTorch:", half[0].tolist(), half[0].dtype)
print("//, by default: ", half[1], "->", np.array(half[0], np.float16).tolist())
print("//, in float32: ", single[1])
print("%:              ", rest[1])
assert half[0].dtype is torch.int32
assert half[1][-1] == "fp16"
assert single[1][-1] == "fp32"
assert rest[1][-1].startswith("int")
PY
