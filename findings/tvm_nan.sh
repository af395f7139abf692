#!/usr/bin/env bash
# Guessed: a NaN that a broken weight or image brings into a network comes out as NaN in TVM as in ONNX Runtime.
# Happens: Relu, Clip, Max and Min of TVM give a number for NaN: the other operand, or a border. The first Relu of a network makes it
#   0, and the answer looks like any other. Exp, Add, Softmax and the like keep it.
# Meets: who checks results for NaN to find images or half-precision sums gone wrong: the check never fires after
#   compilation. Check the inputs, or the uncompiled model.
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
x = np.array([[1, np.nan, -2]], np.float32)
cases = {"Relu": [], "Clip": [0, 6], "Max": [[0.5]], "Min": [[0.5]], "Add": [[0.5]], "Sigmoid": [], "Exp": [], "Softmax": []}


def answers(kind, others):
    held = [numpy_helper.from_array(np.array(other, np.float32), f"c{place}") for place, other in enumerate(others)]
    puts = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)
    graph = helper.make_graph([helper.make_node(kind, ["x", *(each.name for each in held)], ["y"])], "g", puts, [y], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    right = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    machine = relax.VirtualMachine(tvm.compile(from_onnx(model), target="llvm"), tvm.cpu())
    return right[0, 1], machine["main"](tvm.runtime.tensor(x)).numpy()[0, 1]


found = {kind: answers(kind, others) for kind, others in cases.items()}
for kind, (right, value) in found.items():
    print(f"{kind} of NaN: ONNX Runtime {right}, TVM {value}")
lost = {kind for kind, (right, value) in found.items() if np.isnan(right) and not np.isnan(value)}
as_told = lost == {"Relu", "Clip", "Max", "Min"} and all(np.isnan(right) for right, _ in found.values())
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
