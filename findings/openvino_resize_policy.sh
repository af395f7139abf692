#!/usr/bin/env bash
# Guessed: OpenVINO resizes as an ONNX file says: with `keep_aspect_ratio_policy` the sides keep their ratio, within the sizes
#   ("not_larger") or around them ("not_smaller").
# Happens: the policy is not followed. The image is stretched to the two sizes as they stand, so the output has another shape: for
#   5x7 to 10x21 it is 10x21 in each case; ONNX Runtime and ONNX's own evaluator give 10x14 and 15x21. There is no error or
#   warning. `half_pixel_symmetric` and `tf_crop_and_resize` are refused.
# Meets: who put the preprocessing into the file: a shorter or longer side, letterboxing before padding. Behind a Pad or a
#   CenterCropPad to a fixed size shapes agree again, and the objects are distorted. Compute both sizes in the graph or outside.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import importlib.metadata
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print("openvino", importlib.metadata.version("openvino"))
x = np.random.default_rng(0).normal(size=(1, 2, 5, 7)).astype(np.float32)
sizes = numpy_helper.from_array(np.array([10, 21]), "sizes")
shapes = {}
for policy, shape in (("stretch", [1, 2, 10, 21]), ("not_larger", [1, 2, 10, 14]), ("not_smaller", [1, 2, 15, 21])):
    for mode in ("linear", "nearest"):
        node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], keep_aspect_ratio_policy=policy, axes=[2, 3], mode=mode)
        puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", x.shape), ("y", shape))]
        model = helper.make_model(
            helper.make_graph([node], "g", puts[:1], puts[1:], [sizes]), opset_imports=[helper.make_opsetid("", 19)], ir_version=10
        )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, sys.argv[1])
        said = {
            "ONNX Runtime": onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
            "ONNX's evaluator": ReferenceEvaluator(model).run(None, {"x": x})[0],
            "OpenVINO": openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0],
        }
        shapes[policy, mode] = {name: list(one.shape) for name, one in said.items()} | {"right": shape}
        print(policy, mode, shapes[policy, mode])
as_told = all(found["ONNX Runtime"] == found["ONNX's evaluator"] == found["right"] for found in shapes.values())
as_told = as_told and all(found["OpenVINO"] == [1, 2, 10, 21] for found in shapes.values())
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
