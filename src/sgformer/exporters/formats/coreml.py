"""Core ML's `.mlpackage` folders. They are written anywhere, and run on Apple's systems only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..tracing import quiet
from . import Run

METADATA = "sgformer"


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """Write a program for one size, with weights and computation in float32."""
    with quiet():
        import coremltools  # pyright: ignore[reportMissingImports]

        _divide_whole_numbers()
        model = coremltools.convert(
            program.run_decompositions({}),
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        spec = model.get_spec()
        names = {put.name: name for put, name in zip(spec.description.output, about["outputs"], strict=True)}
        names |= {spec.description.input[0].name: about["input"]}
        for old, new in names.items():
            coremltools.utils.rename_feature(spec, old, new)
        model = coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
        model.user_defined_metadata[METADATA] = json.dumps(about)
        model.save(str(path))


def open_file(path: Path, threads: int) -> Run:
    """Open the package in Core ML, which only macOS has."""
    import coremltools  # pyright: ignore[reportMissingImports]
    import torch

    model = coremltools.models.MLModel(str(path))
    about = read_about(path)

    def run(x: Tensor) -> Sequence[Tensor]:
        found = model.predict({about["input"]: x.numpy()})
        return [torch.from_numpy(found[name]) for name in about["outputs"]]

    return run


def read_about(path: Path) -> dict[str, Any]:
    """Read the metadata of the package."""
    import coremltools  # pyright: ignore[reportMissingImports]

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    return json.loads(model.user_defined_metadata[METADATA])


def _divide_whole_numbers() -> None:
    """Let the converter leave quotients and remainders whole; by itself it makes floats of them, which are no index."""
    from coremltools.converters.mil import Builder, register_torch_op  # pyright: ignore[reportMissingImports]

    def whole(context: Any, node: Any) -> Any:
        numbers = (context[put] if isinstance(put, str) else put for put in node.inputs)
        return (Builder.cast(x=number, dtype="int32") for number in numbers)

    @register_torch_op(override=True)
    def floor_divide(context: Any, node: Any) -> None:
        x, y = whole(context, node)
        context.add(Builder.floor_div(x=x, y=y, name=node.name))

    @register_torch_op(override=True)
    def remainder(context: Any, node: Any) -> None:
        x, y = whole(context, node)
        context.add(Builder.mod(x=x, y=y, name=node.name))
