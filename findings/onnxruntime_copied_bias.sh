#!/usr/bin/env bash
# Guessed: ONNX Runtime's `quantize_static` writes a file that loads, whatever the tensors of a valid file are called.
# Happens: where two convolutions share a bias it copies the bias and puts a number behind its name, having looked at the names
#   of constants alone. With a bias `val_6` the copy is `val_60`; if a node computes a tensor of that name, the file
#   written has two of it and does not load: "Duplicate definition of name", or a wrong type elsewhere.
# Meets: who quantises a graph whose tensors are numbered, as `torch.onnx.export` numbers them (val_6, val_60), after equal
#   constants were made one, such as biases of noughts. Rename the constants first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
x = np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32)


class Images(CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": x}]

    def get_next(self):
        return self.left.pop() if self.left else None


def quantised(between, biases):
    """How far a quantised file is off, or its error; a tensor is called `between`."""
    weights = np.random.default_rng(1).standard_normal((2, 2, 3, 3)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "weight")]
    constants += [numpy_helper.from_array(np.zeros(2, np.float32), name) for name in sorted(set(biases))]
    nodes = [
        helper.make_node("Conv", ["x", "weight", biases[0]], ["first"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], [between], "relu"),
        helper.make_node("Conv", [between, "weight", biases[1]], ["y"], "conv2", pads=[1, 1, 1, 1]),
    ]
    puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", puts[:1], puts[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    quantize_static("model.onnx", "int8.onnx", Images())
    right = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})[0]
    try:
        found = onnxruntime.InferenceSession("int8.onnx").run(None, {"x": x})[0]
    except Exception as error:
        return "does not load: " + str(error).split("failed:")[-1]
    return float(np.abs(found - right).max() / np.abs(right).max())


found = {
    "a shared bias val_6, a tensor val_60": quantised("val_60", ["val_6", "val_6"]),
    "a shared bias val_6, a tensor val_59": quantised("val_59", ["val_6", "val_6"]),
    "two biases, a tensor val_60": quantised("val_60", ["val_6", "val_7"]),
}
for case, value in found.items():
    print(f"{case}: {value}")
bad, *fine = found.values()
as_told = isinstance(bad, str) and all(isinstance(value, float) and value < 0.1 for value in fine)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
