#!/usr/bin/env bash
# Guessed: TopK of ONNX ranks whole numbers in tract as it ranks floats; int64 is one of the types that the operator takes.
# Happens: whole numbers that come from a size, such as a Range up to a dimension or a constant of int64 that meets one,
#   are symbolic dimensions in tract. It adds and multiplies them, and TopK stops: "TDim is not a number". Cast to int32
#   before, it ranks them; a cast to int64 changes nothing.
# Meets: who breaks ties by place (value times N plus index), ranks anchors or tokens by index, or computes a permutation
#   in the graph; also where every size is fixed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tract==0.23.9 onnx==1.22.0 numpy==2.2.6
"$work/venv/bin/python" -W ignore - "$work/model.onnx" <<'PY'
import sys

import numpy as np
import onnx
import tract
from onnx import TensorProto, helper


def ranked(kind):
    """What tract says of the places of (x, as whole numbers) * N + place, ranked from the highest; N is the length."""
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["n1"]),
        node("Squeeze", ["n1", "axis"], ["n"]),
        node("Range", ["zero", "n", "one"], ["place"]),
        node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        node("Mul", ["whole", "n"], ["times"]),
        node("Add", ["times", "place"], ["key64"]),
        node("Cast", ["key64"], ["key"], to=kind),
        node("TopK", ["key", "n1"], ["values", "order"]),
    ]
    constants = [helper.make_tensor(name, TensorProto.INT64, dims, value) for name, dims, value in
                 (("zero", [], [0]), ("one", [], [1]), ("axis", [1], [0]))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])
    order = helper.make_tensor_value_info("order", TensorProto.INT64, [5])
    graph = helper.make_graph(nodes, "rank", [x], [order], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), sys.argv[1])
    try:
        model = tract.onnx().load(sys.argv[1]).into_model().into_runnable()
        return model.run([np.array([3, 1, 3, 2, 1], np.float32)])[0].to_numpy().tolist()
    except tract.TractError as error:
        return [line.strip() for line in str(error).splitlines() if "not a number" in line][0]


print("tract", tract.version())
found = {name: ranked(getattr(TensorProto, name)) for name in ("INT64", "INT32")}
for name, order in found.items():
    print(f"{name:6}", order)
assert found["INT32"] == [2, 0, 3, 4, 1]
assert "TDim is not a number" in found["INT64"]
PY
