#!/usr/bin/env bash
# Guessed: OpenCV's network module pads a convolution with `auto_pad` as ONNX says: SAME_UPPER puts the odd row and column
#   at the end, SAME_LOWER at the start.
# Happens: OpenCV 5 pads at the start for both. With stride 2, an odd kernel and an even size every output is another, as
#   if the image were moved by a pixel; nothing is said. SAME_LOWER, and the same padding written out, are right.
# Meets: who runs networks that come from TensorFlow (EfficientNet, MobileNet, SSD) and were exported with SAME_UPPER.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/conv.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

print("opencv", cv2.__version__, "onnxruntime", onnxruntime.__version__)
rng = np.random.default_rng(0)
kernel = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)


def answers(size, **padding):
    """What ONNX Runtime and OpenCV give for a convolution of stride 2."""
    x = rng.standard_normal((1, 3, size, size)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], kernel_shape=[3, 3], **padding)
    half = (size + 1) // 2
    put = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, half, half))
    graph = helper.make_graph([node], "g", [put], [out], [numpy_helper.from_array(kernel, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    net = cv2.dnn.readNetFromONNX(sys.argv[1])
    net.setInput(x)
    return session.run(None, {"x": x})[0], net.forward()


wrong = {}
for size in (8, 9):
    for name, padding in {
        "SAME_UPPER": {"auto_pad": "SAME_UPPER"},
        "SAME_LOWER": {"auto_pad": "SAME_LOWER"},
        "written out": {"pads": [0, 0, 1, 1] if size % 2 == 0 else [1, 1, 1, 1]},
    }.items():
        theirs, opencvs = answers(size, **padding)
        wrong[name, size] = float(np.abs(theirs - opencvs).max())
        print(f"{size}x{size} {name:12} differs by {wrong[name, size]:.2g}, of {np.abs(theirs).max():.2g}")
assert wrong.pop(("SAME_UPPER", 8)) > 1
assert all(difference < 1e-4 for difference in wrong.values())
PY
