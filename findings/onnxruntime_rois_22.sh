#!/usr/bin/env bash
# Guessed: ONNX Runtime 1.32, which knows opset 25, computes a detector whose file was raised from opset 21 to 22 or later:
#   operators got a new version there for the sake of bfloat16 alone.
# Happens: on a CPU it has no RoiAlign(22) and no MaxRoiPool(22): "Could not find an implementation", when the file is opened.
#   The others that were looked at have one: Conv, ConvTranspose, DeformConv, GridSample, MaxPool, MaxUnpool, Mish and more.
# Meets: who exports Faster or Mask R-CNN with a new opset, or raises a file to it for another operator. Stay at 21 or below.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "whose newest opset is", onnx.defs.onnx_opset_version())
x = np.arange(128, dtype=np.float32).reshape(1, 2, 8, 8)
kernel, offsets = np.ones((2, 2, 3, 3), np.float32), np.zeros((1, 18, 6, 6), np.float32)
grid = np.zeros((1, 4, 4, 2), np.float32)
cases = {
    "RoiAlign": ([x, np.array([[0, 0, 4, 4]], np.float32), np.zeros(1, np.int64)], {"output_height": 2, "output_width": 2}),
    "MaxRoiPool": ([x, np.array([[0, 0, 0, 4, 4]], np.float32)], {"pooled_shape": [2, 2]}),
    "ConvTranspose": ([x, kernel], {}),
    "DeformConv": ([x, kernel, offsets], {"kernel_shape": [3, 3]}),
    "GridSample": ([x, grid], {}),
    "MaxPool": ([x], {"kernel_shape": [2, 2]}),
    "Mish": ([x], {}),
}


def runs(kind, arrays, options, opset):
    feed = {f"x{place}": array for place, array in enumerate(arrays)}
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feed.items()}
    puts = [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in feed.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])
    graph = helper.make_graph([helper.make_node(kind, list(feed), ["y"], **options)], "g", puts, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        return "runs"
    except Exception as error:
        return str(error).split(" : ")[-1].split(" with node")[0]


found = {kind: [runs(kind, *case, opset) for opset in (21, 22)] for kind, case in cases.items()}
for kind, (old, new) in found.items():
    print(f"{kind}: opset 21 {old}, opset 22 {new}")
without = {kind for kind, (_, new) in found.items() if "Could not find an implementation" in new}
as_told = without == {"RoiAlign", "MaxRoiPool"} and all(old == "runs" for old, _ in found.values())
as_told = as_told and all(new == "runs" for kind, (_, new) in found.items() if kind not in without)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
