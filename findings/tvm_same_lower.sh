#!/usr/bin/env bash
# Guessed: `auto_pad` of ONNX's operators gives maps of one size in TVM and ONNX Runtime: SAME means size by stride, rounded up.
# Happens: MaxPool of SAME_LOWER leaves the last column out where 7 pixels are pooled by a stride of 2: they
#   become 3, not 4. SAME_UPPER, Conv and AveragePool have it.
# Meets: who compiles old exports, which say SAME_LOWER, for images of any size. Give explicit pads.
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
x = np.random.default_rng(0).standard_normal((1, 2, 8, 7)).astype(np.float32)
kernel = numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "kernel")


def answers(kind, how):
    names, held = (["x", "kernel"], [kernel]) if kind == "Conv" else (["x"], [])
    puts = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])
    node = helper.make_node(kind, names, ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad=how)
    model = helper.make_model(helper.make_graph([node], "g", puts, [y], held), opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    right = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    machine = relax.VirtualMachine(tvm.compile(from_onnx(model), target="llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(x)).numpy()
    return right.shape, found.shape, right.shape == found.shape and np.allclose(right, found, atol=1e-4)


found = {(kind, how): answers(kind, how) for kind in ("MaxPool", "AveragePool", "Conv") for how in ("SAME_UPPER", "SAME_LOWER")}
for (kind, how), (right, shape, same) in found.items():
    print(f"{kind} {how}: ONNX Runtime {right}, TVM {shape}, {'the same' if same else 'other'} values")
wrong = {case for case, (_, _, same) in found.items() if not same}
as_told = wrong == {("MaxPool", "SAME_LOWER")} and found["MaxPool", "SAME_LOWER"][1] == (1, 2, 4, 3)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
