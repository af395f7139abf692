#!/usr/bin/env bash
# Guessed: ONNX's own reference evaluator computes GatherElements for any size, being the definition to check others by.
# Happens: it takes an axis for a list of choices of `numpy.choose`, of which NumPy 2 allows 63 here, and NumPy 1 fewer.
#   Longer ones are a ValueError or an IndexError, about another thing: "cannot reshape array of size 2 into shape (2, 5)".
# Meets: who checks an exported file that sorts, ranks or keeps the best of more than 63: tokens, anchors, boxes, words.
#   Pass a class of your own in `new_ops` whose `_run` is `numpy.take_along_axis`.
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
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class GatherElements(OpRun):
    op_domain = ""

    def _run(self, data, indices, axis=None):
        return (np.take_along_axis(data, indices, axis or 0),)


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "numpy", np.__version__)


def answers(shape, taken, axis):
    """Whether each way gives what NumPy does, or its error."""
    value = helper.make_tensor_value_info
    puts = [value("x", TensorProto.FLOAT, shape), value("places", TensorProto.INT64, taken)]
    node = helper.make_node("GatherElements", ["x", "places"], ["y"], axis=axis)
    graph = helper.make_graph([node], "g", puts, [value("y", TensorProto.FLOAT, taken)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    rng = np.random.default_rng(0)
    x, places = rng.standard_normal(shape).astype(np.float32), rng.integers(0, shape[axis], taken)
    right, found = np.take_along_axis(x, places, axis), []
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for run in (session, ReferenceEvaluator(model), ReferenceEvaluator(model, new_ops=[GatherElements])):
        try:
            found.append(np.array_equal(run.run(None, {"x": x, "places": places})[0], right))
        except Exception as error:
            found.append(type(error).__name__)
    print(shape, "axis", axis, "onnxruntime", found[0], "reference", found[1], "with new_ops", found[2])
    return found


assert answers([2, 63], [2, 5], 1) == answers([1, 63, 3], [1, 5, 3], 1) == [True, True, True]
as_told = answers([2, 64], [2, 5], 1) == answers([1, 64, 3], [1, 5, 3], 1) == [True, "ValueError", True]
as_told = as_told and answers([100, 3], [5, 3], 0) == [True, "IndexError", True]
print("as told" if as_told else "the behaviour has changed")
sys.exit(not as_told)
PY
