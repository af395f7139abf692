#!/usr/bin/env bash
# Guessed: IREE normalises a map of open height and width as it does one whose size stands in the file.
# Happens: InstanceNormalization of a map of open height and width is wrong by several standard deviations, or NaN in every
#   place (a list of open length in one channel), without a word. With only the batch open it is right; ReduceMean and
#   Softmax of the same open maps are right.
# Meets: who compiles one file for all sizes of a network with instance or group norms (PyTorch's exporter writes a group
#   norm as this operator, of a map that was reshaped to groups). Tell each norm its size, in a file for one size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q iree-base-compiler==3.13.0 iree-base-runtime==3.13.0 onnx==1.22.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work" <<'PY'
import subprocess
import sys

import iree.compiler
import iree.runtime
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

SHAPE = [1, 3, 16, 16]


def largest_error(operator, shape, **attributes):
    """The operator over all but batch and channels in IREE, against ONNX's own evaluator."""
    channels = shape[1]
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32).reshape(SHAPE if len(shape) == 4 else [1, 1, -1])
    inputs = [numpy_helper.from_array(values, name) for name, values in
              (("scale", np.ones(channels, np.float32)), ("shift", np.zeros(channels, np.float32)), ("axes", np.array([2, 3])))]
    inputs = {"InstanceNormalization": inputs[:2], "ReduceMean": inputs[2:]}.get(operator, [])
    node = helper.make_node(operator, ["x", *(value.name for value in inputs)], ["y"], **attributes)
    out = [*shape[:2], 1, 1] if operator == "ReduceMean" else shape
    graph = helper.make_graph([node], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)], inputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    file, imported = f"{sys.argv[1]}/model.onnx", f"{sys.argv[1]}/model.mlir"
    onnx.save(model, file)
    subprocess.run([sys.executable, "-m", "iree.compiler.tools.import_onnx", file, "-o", imported], check=True)
    compiled = iree.compiler.compile_file(imported, input_type="onnx", target_backends=["llvm-cpu"],
                                          extra_args=["--iree-llvmcpu-target-cpu=generic"])
    found = iree.runtime.load_vm_flatbuffer(compiled, driver="local-sync")["graph"](x).to_host()
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    return float(np.abs(found - expected).max()), int(np.isnan(found).sum()), found.size


for operator, shape, attributes, broken in (
    ("InstanceNormalization", SHAPE, {}, False),
    ("InstanceNormalization", ["batch", 3, 16, 16], {}, False),
    ("InstanceNormalization", [1, 3, "height", "width"], {}, True),
    ("InstanceNormalization", ["batch", 3, "height", "width"], {}, True),
    ("InstanceNormalization", ["batch", 1, "length"], {}, True),
    ("ReduceMean", ["batch", 3, "height", "width"], {"keepdims": 1}, False),
    ("Softmax", ["batch", 3, "height", "width"], {"axis": -1}, False),
):
    error, nans, size = largest_error(operator, shape, **attributes)
    print(f"iree 3.13.0, {operator} of {shape}: {nans} of {size} are NaN, largest error {error:.1e}")
    assert broken != (error < 1e-4)  # also where it is NaN
PY
