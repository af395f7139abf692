#!/usr/bin/env bash
# Guessed: MNN adds where an ONNX file says `reduction="add"` (ScatterElements, ScatterND), or its converter refuses.
# Happens: the converter says nothing, and MNN overwrites: of several updates for a place the last one stays, and what was
#   there before is gone. `reduction="max"` likewise.
# Meets: who pools tokens or pixels by index in a graph: superpixels, point pillars, voxels, histograms, merged tokens.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q MNN==3.6.1 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work" <<'PY' | grep -v '^\(Start\|Converted\|inputTensors\|outputTensors\|The device\|CPU Group\|onnx version\|Net \|Don\|main\)'
import sys

import _tools  # what `mnnconvert` calls
import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("MNN 3.6.1 onnxruntime", onnxruntime.__version__)
path, converted = f"{sys.argv[1]}/scatter.onnx", f"{sys.argv[1]}/scatter.mnn"


def answers(kind, index, updates, reduction, **options):
    """What ONNX Runtime and MNN make of four tens."""
    x = np.full((4, 1), 10, np.float32)
    node = helper.make_node(kind, ["x", "index", "updates"], ["y"], reduction=reduction, **options)
    weights = [numpy_helper.from_array(np.array(index, np.int64), "index")]
    weights.append(numpy_helper.from_array(np.array(updates, np.float32), "updates"))
    puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph([node], "g", puts[:1], puts[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", converted])
    manager = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1, "precision": "high"},))
    module = MNN.nn.load_module_from_file(converted, ["x"], ["y"], runtime_manager=manager)
    (y,) = module.forward([MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)])
    read = MNN.expr.convert(y, MNN.expr.NCHW).read()
    return session.run(None, {"x": x})[0].ravel().tolist(), read.copy().ravel().tolist()


for reduction, right in (("add", [10, 13, 10, 14]), ("max", [10, 10, 10, 10])):
    for kind, index, options in (
        ("ScatterElements", [[1], [1], [3]], {"axis": 0}),
        ("ScatterND", [[1], [1], [3]], {}),
    ):
        theirs, mnns = answers(kind, index, [[1], [2], [4]], reduction, **options)
        print(f"{kind} {reduction}: onnxruntime {theirs}, MNN {mnns}")
        assert theirs == right
        assert mnns == [10, 2, 10, 4]
PY
