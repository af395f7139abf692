#!/usr/bin/env bash
# Guessed: runtimes read the opset of a file, and compute Softmax of opsets before 13 as it was: over all dimensions from its
#   axis on together, with axis 1 where none is named.
# Happens: OpenVINO does so up to opset 10 and takes it for the new one, over one dimension, in files of 11 and 12. OpenCV 5
#   and ONNX's own evaluator always take it for the new one; the evaluator also takes the new default, the last axis. ONNX
#   Runtime and tract are right. Nothing is said; each still gives numbers between 0 and 1.
# Meets: who runs old files of segmenters, of attention over maps (softmax over rows and columns at once) or of heads whose
#   logits still have two dimensions of size 1 and more. The file's opset does not show it; compare sums.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openvino==2026.4.1 opencv-python-headless==5.0.0.93 onnx==1.22.0 onnxruntime==1.32.0 \
  tract==0.23.9 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import importlib.metadata
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import tract
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print(*[f"{name} {importlib.metadata.version(name)}" for name in ("openvino", "onnxruntime", "tract", "onnx")], cv2.__version__)
PATH = sys.argv[1]
x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def by_opencv():
    net = cv2.dnn.readNetFromONNX(PATH)
    net.setInput(x)
    return net.forward()


ways = {
    "ONNX Runtime": lambda: onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
    "tract": lambda: tract.onnx().load(PATH).into_model().into_runnable().run([x])[0].to_numpy(),
    "OpenVINO": lambda: openvino.Core().compile_model(PATH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0],
    "OpenCV": by_opencv,
    "ONNX's evaluator": lambda: ReferenceEvaluator(PATH).run(None, {"x": x})[0],
}
right = {}
for opset in (9, 10, 11, 12, 13):
    for axis in (None, 1, 2):
        node = helper.make_node("Softmax", ["x"], ["y"], **({} if axis is None else {"axis": axis}))
        puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
        graph = helper.make_graph([node], "g", puts[:1], puts[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, PATH)
        if opset < 13:
            start = 1 if axis is None else axis
            flat = np.exp(x.reshape(int(np.prod(x.shape[:start])), -1))
            true = (flat / flat.sum(1, keepdims=True)).reshape(x.shape)
        else:
            true = np.exp(x) / np.exp(x).sum(-1 if axis is None else axis, keepdims=True)
        for name, way in ways.items():
            right[name, opset, axis] = bool(np.abs(np.asarray(way()) - true).max() < 1e-5)
for opset in (9, 10, 11, 12, 13):
    for axis in (None, 1, 2):
        said = ", ".join(f"{name} {'right' if right[name, opset, axis] else 'WRONG'}" for name in ways)
        print(f"opset {opset}, axis {axis}: {said}")
as_told = all(
    right[name, opset, axis] == (opset > 12 or name in ("ONNX Runtime", "tract") or (name == "OpenVINO" and opset < 11))
    for name, opset, axis in right
)
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
