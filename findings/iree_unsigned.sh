#!/usr/bin/env bash
# Guessed: IREE computes uint8 of an ONNX file without a sign, as other runtimes do.
# Happens: Div and TopK take the bytes for signed ones: 200 / 2 is 228, 255 / 2 is 0, and of 0, 127, 200, 255 the
#   largest is 127. Max, ReduceMax, ArgMax, Greater, BitShift and Cast are right. All computed uint8 come back as NumPy's
#   int8, so that class 255 of a mask is -1; an input that is passed on keeps its type.
# Meets: who puts resizing, scaling or the argmax of masks into the graph in bytes, or ranks bytes. Cast to int32 or float
#   first, and read outputs with `.view(np.uint8)`.
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
from onnx import TensorProto, helper

folder = sys.argv[1]
x = np.array([0, 127, 200, 255], np.uint8)


def run(kind, *others, outputs=("y",), result=TensorProto.UINT8, **options):
    names = ["x", *(f"other{i}" for i in range(len(others)))]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, **options)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info(outputs[0], result, None)],
        [onnx.numpy_helper.from_array(other, name) for name, other in zip(names[1:], others)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, f"{folder}/model.onnx")
    command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", f"{folder}/model.onnx", "-o", f"{folder}/model.mlir"]
    subprocess.run(command, check=True)
    compiled = iree.compiler.compile_file(
        f"{folder}/model.mlir",
        input_type="onnx",
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host"],
    )
    function = iree.runtime.load_vm_flatbuffer(compiled, driver="local-sync")["graph"]
    return function(x).to_host()


print("iree 3.13.0, x =", x.tolist())
half = run("Div", np.full(4, 2, np.uint8))
print("x / 2:", half.view(np.uint8).tolist(), "instead of", (x // 2).tolist(), "as", half.dtype)
first = run("TopK", np.array([2]), outputs=("y", "places"))
print("largest two:", first.view(np.uint8).tolist(), "instead of [255, 200]")
most = run("Max", np.full(4, 90, np.uint8))
print("max(x, 90):", most.view(np.uint8).tolist(), "which is right, as", most.dtype)
as_told = half.view(np.uint8).tolist() == [0, 63, 228, 0] and first.view(np.uint8).tolist() == [127, 0]
as_told = as_told and most.tolist() == [90, 127, -56, -1] and most.dtype == np.int8
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
