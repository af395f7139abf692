#!/usr/bin/env bash
# Guessed: TVM computes ONNX's Resize as ONNX Runtime does, in each mode that its front end takes.
# Happens: a scale that does not come out even is replaced by the ratio of the sizes: 9 pixels times 1.3 are 11 in either, and
#   their places are counted by 11/9 in TVM, by 1.3 in ONNX Runtime. `antialias` is left unread: an image made smaller is
#   sampled, not averaged. Nothing is said. With sizes, or scales that come out even, and without `antialias`, all is right.
# Meets: who compiles exports of `interpolate(scale_factor=1.3)`, or of torchvision's Resize with antialias, for TVM. Export
#   with `size=` or `recompute_scale_factor=True`, and shrink images before the model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q apache-tvm==0.27.0.post1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

print("tvm", tvm.__version__, "onnxruntime", onnxruntime.__version__)
x = np.random.default_rng(0).standard_normal((1, 2, 9, 9)).astype(np.float32)


def off(mode, scale=None, size=None, antialias=0):
    """The largest difference between TVM and ONNX Runtime."""
    numbers = np.array([1, 1, scale, scale], np.float32) if scale else np.array([1, 2, size, size])
    wanted = numpy_helper.from_array(numbers, "wanted")
    names = ["x", "", "wanted"] if scale else ["x", "", "", "wanted"]
    options = {"mode": mode, "coordinate_transformation_mode": "half_pixel", "antialias": antialias}
    puts = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])
    graph = helper.make_graph([helper.make_node("Resize", names, ["y"], **options)], "g", puts, [y], [wanted])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    right = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    machine = relax.VirtualMachine(tvm.compile(from_onnx(model), target="llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(x)).numpy()
    assert found.shape == right.shape
    return float(np.abs(found - right).max())


as_told = True
for mode in ("linear", "cubic"):
    even = [off(mode, scale=2.0), off(mode, size=11), off(mode, size=5)]
    broken, smaller = off(mode, scale=1.3), off(mode, size=5, antialias=1)
    print(f"{mode}: sizes and a scale of 2 are at most {max(even):.1g} off, a scale of 1.3 {broken:.2f}, antialias {smaller:.2f}")
    as_told = as_told and max(even) < 1e-4 and min(broken, smaller) > 0.1
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
