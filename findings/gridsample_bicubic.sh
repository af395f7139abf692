#!/usr/bin/env bash
# Guessed: bicubic GridSample is the same in all runtimes that have it, as PyTorch's `grid_sample` and ONNX Runtime.
# Happens: with padding by the border tract moves a point from outside onto the border first and interpolates there, so
#   that its fraction is lost; the neighbours were to be moved, not the point. OpenCV 5 reads another sampling altogether,
#   inside too. Bilinear and nearest are right in all.
# Meets: who exports deformable attention, warping by optical flow, or rectification with mode="bicubic". Take "bilinear", or
#   ONNX Runtime or OpenVINO.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 openvino==2026.4.1 onnx==1.22.0 onnxruntime==1.32.0 \
  tract==0.23.9 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import tract
from onnx import TensorProto, helper, numpy_helper

print("tract 0.23.9, opencv", cv2.__version__)
PATH = sys.argv[1]
rng = np.random.default_rng(0)
x = rng.normal(size=(1, 2, 8, 9)).astype(np.float32)
inside = rng.uniform(-0.5, 0.5, (1, 5, 6, 2)).astype(np.float32)
beyond = rng.uniform(-1.3, 1.3, (1, 5, 6, 2)).astype(np.float32)


def cubic(t):
    """The weights of four neighbours for a fraction, with PyTorch's a = -0.75."""
    d, a = np.array([1 + t, t, 1 - t, 2 - t]), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a)


def by_definition(grid):
    """Bicubic, border, align_corners=False: neighbours from outside are those at the border."""
    height, width = x.shape[2:]
    out = np.zeros((1, 2, *grid.shape[1:3]))
    for i, j in np.ndindex(*grid.shape[1:3]):
        column, row = ((grid[0, i, j] + 1) * [width, height] - 1) / 2
        left, top = int(np.floor(column)), int(np.floor(row))
        columns = np.clip(np.arange(left - 1, left + 3), 0, width - 1)
        rows = np.clip(np.arange(top - 1, top + 3), 0, height - 1)
        out[0, :, i, j] = np.einsum("r,crk,k->c", cubic(row - top), x[0][:, rows][:, :, columns], cubic(column - left))
    return out


def by_opencv():
    net = cv2.dnn.readNetFromONNX(PATH)
    net.setInput(x)
    return net.forward()


ways = {
    "ONNX Runtime": lambda: onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
    "OpenVINO": lambda: openvino.Core().compile_model(PATH, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0],
    "tract": lambda: tract.onnx().load(PATH).into_model().into_runnable().run([x])[0].to_numpy(),
    "OpenCV": by_opencv,
}
apart = {}
for place, grid in (("inside", inside), ("beyond the border", beyond)):
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bicubic", padding_mode="border")
    puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", x.shape), ("y", [1, 2, 5, 6]))]
    graph = helper.make_graph([node], "g", puts[:1], puts[1:], [numpy_helper.from_array(grid, "grid")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, PATH)
    true = by_definition(grid.astype(np.float64))
    for name, way in ways.items():
        apart[name, place] = float(np.abs(np.asarray(way()) - true).max())
        print(f"{name}, points {place}: off by {apart[name, place]:.2g}")
wrong = {case for case, distance in apart.items() if distance > 1e-3}
as_told = wrong == {("tract", "beyond the border"), ("OpenCV", "inside"), ("OpenCV", "beyond the border")}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
