#!/usr/bin/env bash
# Guessed: `onnx.version_converter` keeps what a network computes: where a new version of an operator has another default, it
#   writes the old one out.
# Happens: a linear Upsample of opset 7 to 9 and any Resize of opset 10 measure positions from the corner of a pixel; as
#   Resize of opset 11 and later they come out without `coordinate_transformation_mode`, and its default is the middle of a
#   pixel. Maps are other ones, moved by up to half a pixel, without a word. Softmax is rewritten with care; Hardmax is not,
#   and takes its maximum over the last axis.
# Meets: who brings old segmenters, detectors and super-resolution networks (PyTorch wrote opset 9 and 10 for years) to an
#   opset that a newer tool asks for. Set `coordinate_transformation_mode` to "asymmetric" in the new file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

print("onnx", onnx.__version__)
x = np.random.default_rng(0).normal(size=(1, 2, 4, 6)).astype(np.float32)


def outputs(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def changed(opset, operator, scales, repair=False, **attributes):
    """How far the outputs of one operator change when its file goes from ``opset`` to 18."""
    names = ["x"] + (["scales"] if scales and opset > 8 else [])
    if scales and opset <= 8:
        attributes["scales"] = [float(scale) for scale in scales]
    weights = [numpy_helper.from_array(np.array(scales, np.float32), "scales")] if len(names) > 1 else []
    size = [int(side * scale) for side, scale in zip(x.shape, scales or [1] * 4, strict=True)]
    puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", x.shape), ("y", size))]
    graph = helper.make_graph([helper.make_node(operator, names, ["y"], **attributes)], "g", puts[:1], puts[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model, full_check=True)
    new = version_converter.convert_version(model, 18)
    if repair:
        (resize,) = (node for node in new.graph.node if node.op_type == "Resize")
        resize.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    return float(np.abs(outputs(new) - outputs(model)).max())


twice, other = [1, 1, 2, 2], [1, 1, 0.6, 1.7]
found = {
    "Upsample 8, linear": changed(8, "Upsample", twice, mode="linear"),
    "Upsample 9, linear": changed(9, "Upsample", twice, mode="linear"),
    "Resize 10, linear": changed(10, "Resize", other, mode="linear"),
    "Resize 10, nearest": changed(10, "Resize", other, mode="nearest"),
    "Hardmax 12": changed(12, "Hardmax", None, axis=1),
}
right = {
    "Upsample 9, nearest": changed(9, "Upsample", twice, mode="nearest"),
    "Upsample 9, linear, mode written": changed(9, "Upsample", twice, True, mode="linear"),
    "Resize 10, linear, mode written": changed(10, "Resize", other, True, mode="linear"),
    "Softmax 12": changed(12, "Softmax", None, axis=1),
}
for name, change in (found | right).items():
    print(f"{name}: outputs change by {change:.3g}")
as_told = min(found.values()) > 0.1 and max(right.values()) < 1e-5
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
