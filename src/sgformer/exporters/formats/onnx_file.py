"""ONNX files, for ONNX Runtime and whatever else reads ONNX."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tracing import quiet
from . import Run

OPSET = 20


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """An `.onnx` file that refuses sizes outside its range."""
    import onnx
    import onnxruntime  # noqa: F401  the check needs it: better to miss it now than after the work

    onnx.save(model_of(program, about), str(path))


def model_of(program: Any, about: dict[str, Any], *, refuses: bool = True) -> Any:
    """Convert to an `onnx.ModelProto`; if it `refuses`, with nodes that stop at sizes outside its range."""
    import onnx

    translations: dict[Any, Any] = {torch.ops.aten.floor_divide.default: _floor_divide}
    if about["precision"] == "float32":
        translations[torch.ops.aten.gelu.default] = _gelu
    with torch.no_grad(), quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=about["outputs"],
            optimize=False,
            custom_translation_table=translations,
        )
        assert exported is not None
        _simplify(exported.model)
    model = exported.model_proto
    for thing in (*model.graph.node, *model.graph.input, *model.graph.output):
        del thing.metadata_props[:]  # where in which program it comes from: a third of a small model's file
    del model.graph.value_info[:]  # what lies between: every runtime infers it, and tract holds the file to it
    _name_sizes(model)
    if refuses:
        _check_sizes(model, about["sizes"]["smallest"], about["sizes"]["largest"])
    onnx.helper.set_model_props(model, {"sgformer": json.dumps({**about, "opset": OPSET})})
    return model


def open_file(path: Path, threads: int) -> Run:
    """The file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it warns of what it cannot compute ahead in float16
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {"images": x.numpy()})]

    return run


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return json.loads({entry.key: entry.value for entry in model.metadata_props}["sgformer"])


def _floor_divide(dividend: Any, divisor: Any) -> Any:
    """`//` of numbers of which none here is negative: the exporter compares their signs, which not all runtimes do."""
    from onnxscript import opset20

    quotient: Any = opset20.Div(dividend, divisor)
    return opset20.Floor(quotient) if dividend.dtype.is_floating_point() else quotient


def _gelu(x: Any, approximate: str = "none") -> Any:
    """`(x / 2) * (1 + erf(x / sqrt(2)))`, of which ONNX Runtime makes one operation again.

    MNN does not, and is exact then: its own GELU is an approximation, and so is what it makes of
    `x * (1 + erf(x / sqrt(2))) / 2`. One that is approximated by a tanh stays an operation.
    """
    import onnxscript

    op: Any = onnxscript.opset20
    if approximate != "none":
        return op.Gelu(x, approximate=approximate)
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0))


def _simplify(model: Any) -> None:
    """Simplify as `torch.onnx.export(optimize=True)` does, less its search for patterns of nodes.

    That search takes a time with the square of the number of nodes, minutes for the larger variants, and ONNX Runtime
    computes no faster for it.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    passes.InlinePass()(model)
    # Weights in other shapes too, however many: eight bits are for weights that stand in the file.
    of_weights = {"Add", "Slice", "Squeeze", "Unsqueeze"}
    optimizer.fold_constants(model, should_fold=lambda node: True if node.op_type in of_weights else None)
    _join_reshapes(model)
    for simplify in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        simplify(model)
    for value in list(model.graph.initializers.values()):
        # ONNX Runtime's quantiser numbers copies of a shared bias behind its name: val_616 may be another tensor's.
        value.name = value.name.replace("val_", "constant_", 1)


def _join_reshapes(model: Any) -> None:
    """Reshapes at once what is reshaped twice, where the second shape tells all."""
    for node in model.graph:
        if node.op_type != "Reshape" or (shape := node.inputs[1].const_value) is None or 0 in shape.numpy():
            continue
        while (before := node.inputs[0].producer()) and before.op_type in ("Reshape", "Squeeze", "Unsqueeze"):
            node.replace_input_with(0, before.inputs[0])


def _name_sizes(model: Any) -> None:
    """Gives the open dimensions their names, where the exporter numbered them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        dim.dim_param: name for dim, name in zip(dims, ("batch", "", "height", "width"), strict=True) if dim.dim_param
    }
    values = [*model.graph.input, *model.graph.output]
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param):
        dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _check_sizes(model: Any, smallest: Sequence[int], largest: Sequence[int]) -> None:
    """Lets the graph stop at an image outside the range, since ONNX cannot state one.

    A nought is looked up and added to the image. Outside the range the place where it is looked up does not exist,
    and the runtime's error names the node, which has the range in its name.
    """
    if list(smallest) == list(largest):
        return  # a fixed size stands in the input, and runtimes ask for it
    import onnx

    (top, left), (bottom, right) = smallest, largest
    checks = onnx.parser.parse_graph(f"""
        checks (float[n] images) => (float[n] sizes_checked)
        <int64[1] sizes_first = {{2}}, int64[1] sizes_end = {{4}}, int64[2] sizes_least = {{{top}, {left}}},
         int64[2] sizes_most = {{{bottom}, {right}}}, int64[1] sizes_inside = {{0}}, int64[1] sizes_outside = {{9}},
         float[1] sizes_noughts = {{0.0}}> {{
            sizes_shape = Shape(images)
            sizes_size = Slice(sizes_shape, sizes_first, sizes_end)
            sizes_not_less = Max(sizes_size, sizes_least)
            sizes_within = Min(sizes_not_less, sizes_most)
            sizes_fits = Equal(sizes_size, sizes_within)
            sizes_fit = Cast<to = {onnx.TensorProto.INT64}>(sizes_fits)
            sizes_both = ReduceMin<keepdims = 0>(sizes_fit)
            sizes_all = Cast<to = {onnx.TensorProto.BOOL}>(sizes_both)
            sizes_place = Where(sizes_all, sizes_inside, sizes_outside)
            sizes_nought = Gather(sizes_noughts, sizes_place)
            sizes_checked = Add(images, sizes_nought)
        }}""")
    for node in checks.node:
        name = f"images must be {top}x{left} to {bottom}x{right}" if node.op_type == "Gather" else node.output[0]
        node.name = name
    for node in model.graph.node:
        node.input[:] = ["sizes_checked" if name == "images" else name for name in node.input]
    model.graph.initializer.extend(checks.initializer)
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*checks.node, *kept])
