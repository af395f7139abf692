#!/usr/bin/env bash
# Guessed: a convolution in eight bits with padding gives the same in OpenCV's network module as in ONNX Runtime: padding is a
#   zero, which in eight bits is the input's zero point.
# Happens: OpenCV 5 pads with the smallest number, 0 of uint8 and -128 of int8, as if it stood for zero. Where the zero point
#   is another, every output at an edge is wrong, without a word; inside it is exact, and so are convolutions without
#   padding. It is so for QLinearConv and for a Conv between DequantizeLinear and QuantizeLinear.
# Meets: who runs a network that `quantize_static` or another tool made int8: zero points are elsewhere wherever values have
#   two signs, and small maps are all edge. Compare outputs with ONNX Runtime's first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("opencv", cv2.__version__, "onnxruntime", onnxruntime.__version__)
rng = np.random.default_rng(0)


def apart(kind, zero, pads, pairs):
    """The largest difference, in steps of 256: of all outputs, and of those that no padding reaches."""
    limits = np.iinfo(kind)
    x = rng.integers(limits.min, limits.max + 1, (1, 2, 6, 6)).astype(kind)
    constants = {"w": rng.integers(-128, 128, (3, 2, 3, 3)).astype(np.int8), "wz": np.int8(0), "z": kind(zero)}
    constants |= {"xs": np.float32(0.02), "ws": np.float32(0.02), "ys": np.float32(1)}
    make = helper.make_node
    nodes = [make("QLinearConv", ["x", "xs", "z", "w", "ws", "wz", "ys", "z"], ["y"], pads=[pads] * 4)]
    if pairs:
        nodes = [make("DequantizeLinear", ["x", "xs", "z"], ["a"]), make("DequantizeLinear", ["w", "ws", "wz"], ["b"])]
        nodes += [make("Conv", ["a", "b"], ["c"], pads=[pads] * 4), make("QuantizeLinear", ["c", "ys", "z"], ["y"])]
    size, data = 4 + 2 * pads, helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    puts = [helper.make_tensor_value_info("x", data, x.shape), helper.make_tensor_value_info("y", data, [1, 3, size, size])]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", puts[:1], puts[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    net = cv2.dnn.readNetFromONNX(sys.argv[1])
    net.setInput(x)
    difference = np.abs(net.forward().astype(int) - session.run(None, {"x": x})[0].astype(int))
    return int(difference.max()), int(difference[:, :, pads : size - pads, pads : size - pads].max())


as_told = True
for pairs in (False, True):
    for kind, least, others in ((np.uint8, 0, (100, 128)), (np.int8, -128, (0, 20))):
        for zero in (least, *others):
            without, padded = apart(kind, zero, 0, pairs), apart(kind, zero, 1, pairs)
            way = "Conv between pairs" if pairs else "QLinearConv"
            print(f"{way}, {kind.__name__}, zero point {zero}: without padding {without[0]}, with {padded[0]}, inside {padded[1]}")
            as_told &= max(*without, padded[1]) <= 1 and (padded[0] <= 1) == (zero == least)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
