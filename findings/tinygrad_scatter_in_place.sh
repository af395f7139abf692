#!/usr/bin/env bash
# Guessed: an ONNX file that tinygrad runs gives the same answer each time; ScatterND gives a new tensor, as ONNX says.
# Happens: tinygrad writes the updates into the data itself. A constant of the file keeps what was written: the next run
#   starts with it. Another node that reads the data gets it changed, and so does the caller's own input. ScatterElements
#   gives a new tensor.
# Meets: who runs detectors or point clouds (masks pasted onto a canvas of noughts, voxels, counts): the first image is
#   right, and later images have the objects of earlier ones in them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tinygrad==0.14.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
DEV=PYTHON "$work/venv/bin/python" -W ignore - "$work/scatter.onnx" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

print("tinygrad 0.14.0 onnxruntime", onnxruntime.__version__)
value = helper.make_tensor_value_info
puts = [value("place", TensorProto.INT64, [1, 1]), value("update", TensorProto.FLOAT, [1])]


def both(nodes, inputs, weights, *feeds):
    """The answers of ONNX Runtime and of tinygrad, run after run."""
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, [4])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, sys.argv[1])
    session, runner = onnxruntime.InferenceSession(sys.argv[1]), OnnxRunner(sys.argv[1])
    right = [session.run(None, feed)[0].tolist() for feed in feeds]
    found = [runner({name: Tensor(array) for name, array in feed.items()})["y"].tolist() for feed in feeds]
    print("onnxruntime", right, "tinygrad", found)
    return right, found


def at(place):
    return {"place": np.array([[place]]), "update": np.array([7], np.float32)}


noughts = numpy_helper.from_array(np.zeros(4, np.float32), "data")
scatter = helper.make_node("ScatterND", ["data", "place", "update"], ["y"])
right, found = both([scatter], puts, [noughts], at(0), at(2), at(3))
assert right == [[7, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 7]]
constant = found == [[7, 0, 0, 0], [7, 0, 7, 0], [7, 0, 7, 7]]

scatter = helper.make_node("ScatterND", ["data", "place", "update"], ["written"])
later = helper.make_node("Add", ["data", "written"], ["y"])
tens = at(1) | {"data": np.full(4, 10, np.float32)}
right, found = both([scatter, later], [value("data", TensorProto.FLOAT, [4]), *puts], [], tens)
assert right == [[20, 17, 20, 20]]
as_told = constant and found == [[20, 14, 20, 20]]
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
