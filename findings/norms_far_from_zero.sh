#!/usr/bin/env bash
# Guessed: runtimes compute the variance of a norm from differences to the mean, as ONNX writes it, so that values around
#   1,000 or 10,000 (16-bit images, temperatures in kelvin, heights) are normalized as well as values around 0.
# Happens: some take the mean of squares less the square of the mean, in float32: OpenCV 5 for LayerNormalization and
#   InstanceNormalization, and ONNX Runtime for GroupNormalization, though not for the other two; tract does not. Around
#   1,000 a few per cent are wrong; around 10,000 OpenCV is off by hundreds, and ONNX Runtime gives NaN.
# Meets: who feeds such values to a network whose first norm stands before anything that centres them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 tract==0.23.9 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/norm.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

print("opencv", cv2.__version__, "tract 0.23.9 onnxruntime", onnxruntime.__version__)
rng = np.random.default_rng(0)
NORMS = {
    "LayerNormalization": ((4, 64), (1,), {"axis": -1}, 17, 64),
    "InstanceNormalization": ((2, 6, 8, 8), (2, 3), {}, 17, 6),
    "GroupNormalization": ((2, 6, 8, 8), None, {"num_groups": 2}, 21, 6),
}


def normalized(x, axes):
    if axes is None:  # two groups of three channels
        return normalized(x.reshape(2, 2, -1), (2,)).reshape(x.shape)
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def run_onnxruntime(x):
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def run_opencv(x):
    net = cv2.dnn.readNetFromONNX(sys.argv[1])
    net.setInput(x)
    return net.forward()


def run_tract(x):
    return tract.onnx().load(sys.argv[1]).into_model().into_runnable().run([x])[0].to_numpy()


wrong = {}
for kind, (shape, axes, options, opset, c) in NORMS.items():
    for mean in (0, 1_000, 10_000):
        x = (mean + rng.standard_normal(shape)).astype(np.float32)
        node = helper.make_node(kind, ["x", "scale", "shift"], ["y"], epsilon=1e-5, **options)
        weights = [numpy_helper.from_array(np.full(c, v, np.float32), n) for v, n in ((1, "scale"), (0, "shift"))]
        puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
        graph = helper.make_graph([node], "g", puts[:1], puts[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(model, sys.argv[1])
        runtimes = {"onnxruntime": run_onnxruntime}
        runtimes |= {"tract": run_tract} if kind == "GroupNormalization" else {"opencv": run_opencv}
        for name, run in runtimes.items():
            difference = np.abs(run(x) - normalized(x, axes)).max()
            wrong[name, kind, mean] = float(difference)
            print(f"{kind:22} around {mean:6} {name:12} wrong by {difference:.2g}")
for (name, kind, mean), difference in wrong.items():
    if mean and (name == "opencv" or (name, kind) == ("onnxruntime", "GroupNormalization")):
        assert not difference < 0.02 * mean / 1_000  # also where it is NaN
    else:
        assert difference < 0.02
PY
