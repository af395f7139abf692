#!/usr/bin/env bash
# Guessed: NonMaxSuppression without its optional `max_output_boxes_per_class` gives nothing, as ONNX says (the default is
#   0, "which means no output"), or a runtime refuses such a file.
# Happens: ONNX Runtime gives no box. tract and OpenCV 5 take 0 for "no limit" and give all boxes that are left. A detector
#   that was exported without the number works in two runtimes and finds nothing in the third.
# Meets: who writes or prunes detectors' graphs by hand, or moves one from one runtime to another.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 tract==0.23.9 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/nms.onnx" <<'PY'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import tract
from onnx import TensorProto, helper, numpy_helper

print("opencv", cv2.__version__, "tract 0.23.9 onnxruntime", onnxruntime.__version__)
boxes = np.array([[[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]]], np.float32)
scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)


def count(most):
    """Boxes that each runtime finds with this number, or what it says."""
    weights = {"overlap": np.array([0.5], np.float32), "score": np.array([0.1], np.float32)}
    if most is not None:
        weights["most"] = np.array([most], np.int64)
    node = helper.make_node(
        "NonMaxSuppression", ["boxes", "scores", "" if most is None else "most", "overlap", "score"], ["y"]
    )
    puts = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in (("boxes", boxes), ("scores", scores))]
    out = helper.make_tensor_value_info("y", TensorProto.INT64, ("n", 3))
    graph = helper.make_graph([node], "g", puts, [out], [numpy_helper.from_array(v, n) for n, v in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), sys.argv[1])
    found = {}
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    found["onnxruntime"] = len(session.run(None, {"boxes": boxes, "scores": scores})[0])
    runnable = tract.onnx().load(sys.argv[1]).into_model().into_runnable()
    found["tract"] = len(runnable.run([boxes, scores])[0].to_numpy())
    net = cv2.dnn.readNetFromONNX(sys.argv[1])
    net.setInput(boxes, "boxes")
    net.setInput(scores, "scores")
    found["opencv"] = len(net.forward())
    print("without the number" if most is None else f"at most {most}", found)
    return found


assert set(count(5).values()) == {2}
assert set(count(1).values()) == {1}
for most in (0, None):
    assert count(most) == {"onnxruntime": 0, "tract": 2, "opencv": 2}
PY
