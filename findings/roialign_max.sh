#!/usr/bin/env bash
# Guessed: RoiAlign with `mode="max"` is one operator: the largest of the values sampled in a bin.
# Happens: it is two. OpenVINO and TVM interpolate each sample from four pixels and take the largest sample. ONNX Runtime and
#   ONNX's own evaluator take the largest of the four pixels, each times its weight, and never add them up: on a map of ones
#   a bin may be 0.25. With `mode="avg"`, which detectors use, the four agree.
# Meets: who exports a head that pools by maximum and evaluates in one runtime what is served in another. Use "avg".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q apache-tvm==0.27.0.post1 openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - <<'PY' 2>/dev/null
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
import tvm
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__, "openvino", openvino.__version__, "tvm", tvm.__version__)
box, image = np.array([[1, 1, 3, 3]], np.float32), np.zeros(1, np.int64)
ones = np.ones((1, 1, 8, 8), np.float32)
ramp = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)


def answers(mode, x):
    feed = {"x": x, "box": box, "image": image}
    puts = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape) for name, each in feed.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 1])
    options = {"mode": mode, "output_height": 1, "output_width": 1, "sampling_ratio": 1, "coordinate_transformation_mode": "half_pixel"}
    graph = helper.make_graph([helper.make_node("RoiAlign", list(feed), ["y"], **options)], "g", puts, [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    machine = relax.VirtualMachine(tvm.compile(from_onnx(model), target="llvm"), tvm.cpu())
    compiled = openvino.Core().compile_model(openvino.Core().read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {
        "ONNX Runtime": onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feed)[0],
        "evaluator": ReferenceEvaluator(model).run(None, feed)[0],
        "OpenVINO": compiled(list(feed.values()))[0],
        "TVM": machine["main"](*[tvm.runtime.tensor(each) for each in feed.values()]).numpy(),
    }
    return {name: round(float(value.ravel()[0]), 3) for name, value in found.items()}


found = {(mode, name): answers(mode, x) for mode in ("avg", "max") for name, x in (("ones", ones), ("a ramp", ramp))}
for (mode, name), values in found.items():
    print(f"one bin of {name} by {mode}:", *(f"{who} {value}" for who, value in values.items()), sep="  ")
agree = all(len(set(found["avg", name].values())) == 1 for name in ("ones", "a ramp"))
split = [found["max", name] for name in ("ones", "a ramp")]
as_told = agree and all(each["OpenVINO"] == each["TVM"] > each["ONNX Runtime"] == each["evaluator"] for each in split)
as_told = as_told and found["max", "ones"]["ONNX Runtime"] == 0.25 and found["max", "ones"]["TVM"] == 1
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
