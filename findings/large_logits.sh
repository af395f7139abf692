#!/usr/bin/env bash
# Guessed: LogSoftmax, Softplus and ReduceLogSumExp are operators of their own because runtimes compute them safely; logits
#   of 100 and more, which trained networks have, do them no harm.
# Happens: tract and OpenCV 5 compute them as they are written: Softplus and ReduceLogSumExp are infinite from 89 on, and
#   LogSoftmax is the logarithm of a softmax, minus infinity for every class more than some 100 behind. ONNX Runtime is exact.
# Meets: who computes a loss, a perplexity, an uncertainty or a distance between two models from an exported file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 tract==0.23.9 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper

print("opencv", cv2.__version__, "tract 0.23.9 onnxruntime", onnxruntime.__version__)
x = np.array([[-100, 0, 50, 150]], np.float32)


def answers(kind, shape, **options):
    node = helper.make_node(kind, ["x"], ["y"], **options)
    puts = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x.shape), ("y", shape))]
    graph = helper.make_graph([node], "g", puts[:1], puts[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1])
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    net = cv2.dnn.readNetFromONNX(sys.argv[1])
    net.setInput(x)
    runnable = tract.onnx().load(sys.argv[1]).into_model().into_runnable()
    found = {
        "onnxruntime": session.run(None, {"x": x})[0],
        "opencv": net.forward(),
        "tract": runnable.run([x])[0].to_numpy(),
    }
    found = {name: np.asarray(y, np.float64).ravel().round(2).tolist() for name, y in found.items()}
    print(kind, found)
    return found


inf = float("inf")
soft = answers("Softplus", (1, 4))
assert soft["onnxruntime"] == [0, 0.69, 50, 150]
assert soft["opencv"] == soft["tract"] == [0, 0.69, 50, inf]
log = answers("LogSoftmax", (1, 4), axis=1)
assert log["onnxruntime"] == [-250, -150, -100, 0]
assert all(log[name][:2] == [-inf, -inf] for name in ("opencv", "tract"))
total = answers("ReduceLogSumExp", (1, 1), axes=[1])
assert total["onnxruntime"] == [150]
assert total["opencv"] == total["tract"] == [inf]
PY
