#!/usr/bin/env bash
# Guessed: onnxslim takes a Mul behind a convolution into its weights only where the factor is one per channel; a vector of one
#   factor per column, as broadcasting has it, stays a Mul.
# Happens: where a map has as many columns as channels, factors of columns are taken for factors of channels, and the
#   outputs are others, without a word, even where the factor is written as (1, 1, 1, columns). With a column less or more
#   the same network is right.
# Meets: who weighs columns (windows, positions, a taper, the area of pixels on a globe) behind a convolution and slims the
#   file: whether it is right hangs on the size. Compare outputs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnxslim==0.1.98 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import importlib.metadata
import sys

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

print("onnxslim", importlib.metadata.version("onnxslim"))
CHANNELS, HEIGHT = 8, 5
rng = np.random.default_rng(0)


def outputs(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def changed(width, shape):
    """How far the outputs of a convolution and a Mul change, for maps of this width and a factor of this shape."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "factor"], ["y"])]
    puts = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, HEIGHT, width])
        for name, channels in (("x", 4), ("y", CHANNELS))
    ]
    constants = {"w": rng.normal(size=(CHANNELS, 4, 1, 1)), "factor": np.linspace(1, 9, width).reshape(shape)}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", puts[:1], puts[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    x = rng.normal(size=(1, 4, HEIGHT, width)).astype(np.float32)
    before = outputs(model, x)
    return float(np.abs(outputs(onnxslim.slim(model), x) - before).max())


found = {(width, shape): changed(width, shape) for width in (7, 8, 9) for shape in ((-1,), (1, 1, 1, -1))}
for (width, shape), change in found.items():
    print(f"{CHANNELS} channels, {width} columns, factor of {len(shape)} dimensions: outputs change by {change:.3g}")
as_told = all((change > 1) == (case[0] == 8) for case, change in found.items())
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
