#!/usr/bin/env bash
# Guessed: OpenVINO reduces over the axes that an ONNX file names, in all of ONNX's ten reductions and all opsets.
# Happens: ReduceL1, ReduceLogSum and ReduceLogSumExp of opsets 13 to 17, where axes are an attribute, are computed over all
#   dimensions at once: one number for a batch of maps. At opset 11 and 18 they are right, and so are the other reductions
#   at 13. Broadcasting behind it hides the shape.
# Meets: who exported at the opsets that were usual for years: energy scores, log-sum-exp pooling, softmax by hand, L1
#   norms of features or of attention. Export at opset 18 or later.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q openvino==2026.4.1 onnx==1.22.0 onnxruntime==1.32.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import importlib.metadata
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

print("openvino", importlib.metadata.version("openvino"))
x = np.random.default_rng(0).uniform(0.1, 2, (2, 3, 4, 5)).astype(np.float32)
found = {}
for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
    for opset in (11, 13, 17, 18):
        as_input = opset >= 18
        names, options = (["x", "axes"], {}) if as_input else (["x"], {"axes": [1]})
        weights = [numpy_helper.from_array(np.array([1]), "axes")] if as_input else []
        puts = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (("x", [2, 3, 4, 5]), ("y", [2, 1, 4, 5]))]
        graph = helper.make_graph([helper.make_node("Reduce" + kind, names, ["y"], **options)], "g", puts[:1], puts[1:], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, sys.argv[1])
        true = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        said = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})[0]
        found[kind, opset] = said.shape == true.shape and bool(np.abs(said - true).max() < 1e-4)
        if not found[kind, opset]:
            print(f"Reduce{kind}, opset {opset}: shape {said.shape}, as ONNX Runtime {true.shape}")
wrong = {case for case, right in found.items() if not right}
as_told = wrong == {(kind, opset) for kind in ("L1", "LogSum", "LogSumExp") for opset in (13, 17)}
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
