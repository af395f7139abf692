"""Exported files: followed, written, opened, and what they say of themselves."""

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 20
MAX_BATCH = 1024
EXAMPLE = (2, 224, 256)  # what the model is traced with
Size = tuple[int, int]
Run = Callable[[Tensor], Sequence[Tensor]]


def trace(
    module: nn.Module,
    channels: int,
    *,
    fixed: Size | None,
    smallest: Size,
    largest: Size,
    batch: int | None = None,
) -> Any:
    """Follow a module with symbols for the number of pictures, and for their height and width, unless fixed.

    Args:
        module: What to follow.
        channels: Of a picture.
        fixed: The one (height, width), or None for any from `smallest` to `largest`.
        smallest: Least (height, width).
        largest: Greatest (height, width).
        batch: The one number of pictures, or None for any.

    Returns:
        A `torch.export.ExportedProgram`.
    """
    Dim = torch.export.Dim
    shape: dict[int, Any] = {} if batch else {0: Dim("batch", min=1, max=MAX_BATCH)}
    if not fixed:
        shape |= {2: Dim("height", min=smallest[0], max=largest[0])}
        shape |= {3: Dim("width", min=smallest[1], max=largest[1])}
    some, height, width = EXAMPLE
    height, width = fixed or (min(height, largest[0]), min(width, largest[1]))
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            module,
            (torch.zeros(batch or some, channels, height, width),),
            dynamic_shapes=(shape,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has paths of this machine in it
    return program


def write_program(path: Path, program: Any, about: dict[str, Any]) -> None:
    """A `.pt2` file, for `torch.export.load`."""
    torch.export.save(program, path, extra_files={"sgformer": json.dumps(about)})


def write_onnx(path: Path, program: Any, about: dict[str, Any]) -> None:
    """An `.onnx` file that refuses sizes outside its range."""
    import onnx
    import onnxruntime  # noqa: F401  the check needs it: better to miss it now than after the work

    with torch.no_grad(), _quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=about["outputs"],
            optimize=False,
        )
        assert exported is not None
        _simplify(exported.model)
    model = exported.model_proto
    for thing in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del thing.metadata_props[:]  # where in which program it comes from: a third of a small model's file
    _name_sizes(model)
    _check_sizes(model, about["sizes"]["smallest"], about["sizes"]["largest"])
    entry = model.metadata_props.add()
    entry.key, entry.value = "sgformer", json.dumps({**about, "opset": OPSET})
    onnx.save(model, str(path))


def open_exported(path: str | Path, *, threads: int = 0) -> Run:
    """An exported file as a function from prepared pictures to all that it gives, on the CPU.

    Args:
        path: What `export` wrote.
        threads: Of ONNX Runtime; 0: its own choice.
    """
    path = Path(path)
    if path.suffix == ".pt2":
        module = torch.export.load(path).module()

        def run(x: Tensor) -> Sequence[Tensor]:
            with torch.no_grad():
                return module(x)

        return run

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; it warns of what it cannot compute ahead in float16
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run_onnx(x: Tensor) -> Sequence[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {"pictures": x.numpy()})]

    return run_onnx


def about_exported(path: str | Path) -> dict[str, Any]:
    """The metadata of an exported file: classes, preprocessing, sizes and names."""
    if Path(path).suffix == ".pt2":
        files = {"sgformer": ""}
        torch.export.load(Path(path), extra_files=files)
        return json.loads(files["sgformer"])
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return json.loads({entry.key: entry.value for entry in model.metadata_props}["sgformer"])


def _simplify(model: Any) -> None:
    """What `torch.onnx.export(optimize=True)` does, less its search for patterns of nodes.

    That search takes a time with the square of the number of nodes, minutes for the larger variants, and ONNX Runtime
    computes no faster for it.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer

    passes.InlinePass()(model)
    optimizer.fold_constants(model)
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


def _name_sizes(model: Any) -> None:
    """Gives the open dimensions their names, where the exporter numbered them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        dim.dim_param: name
        for dim, name in zip(dims, ("batch", "", "height", "width"), strict=True)
        if dim.dim_param
    }
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param):
        dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _check_sizes(model: Any, smallest: Sequence[int], largest: Sequence[int]) -> None:
    """Lets the graph stop at a picture outside the range, since ONNX cannot state one.

    A nought is looked up and added to the picture. Outside the range the place where it is looked up does not exist,
    and the runtime's error names the node, which has the range in its name.
    """
    if list(smallest) == list(largest):
        return  # a fixed size stands in the input, and runtimes ask for it
    from onnx import TensorProto, helper

    numbers = {"first": [2], "end": [4], "least": smallest, "most": largest, "inside": [0], "outside": [9]}
    for name, values in numbers.items():
        tensor = helper.make_tensor(f"sizes_{name}", TensorProto.INT64, [len(values)], list(values))
        model.graph.initializer.append(tensor)
    model.graph.initializer.append(helper.make_tensor("sizes_noughts", TensorProto.FLOAT, [1], [0.0]))
    refusal = f"pictures must be {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]}"
    steps = [
        ("Shape", ["pictures"], "shape"),
        ("Slice", ["sizes_shape", "sizes_first", "sizes_end"], "size"),
        ("Max", ["sizes_size", "sizes_least"], "not_less"),
        ("Min", ["sizes_not_less", "sizes_most"], "within"),
        ("Equal", ["sizes_size", "sizes_within"], "fits"),
        ("Cast", ["sizes_fits"], "fit"),
        ("ReduceMin", ["sizes_fit"], "both"),
        ("Cast", ["sizes_both"], "all"),
        ("Where", ["sizes_all", "sizes_inside", "sizes_outside"], "place"),
        ("Gather", ["sizes_noughts", "sizes_place"], "nought"),
        ("Add", ["pictures", "sizes_nought"], "pictures"),
    ]
    more = {
        "fit": {"to": TensorProto.INT64},
        "both": {"keepdims": 0},
        "all": {"to": TensorProto.BOOL},
    }
    for node in model.graph.node:
        node.input[:] = ["sizes_pictures" if name == "pictures" else name for name in node.input]
    nodes = [
        helper.make_node(
            kind,
            inputs,
            [f"sizes_{output}"],
            name=refusal if kind == "Gather" else "",
            **more.get(output, {}),
        )
        for kind, inputs, output in steps
    ]
    checked = model.graph.value_info.add()
    checked.CopyFrom(model.graph.input[0])
    checked.name = "sizes_pictures"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that exporters write for their own developers; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
