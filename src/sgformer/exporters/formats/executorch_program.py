"""`.pte` files, for ExecuTorch with XNNPACK."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tracing import quiet
from . import Run


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """A file for one size; its method `sgformer` gives the metadata, as the bytes of a JSON object."""
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
        from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]
        from executorch.exir.passes.constant_prop_pass import constant_prop_pass  # pyright: ignore[reportMissingImports]

        program = constant_prop_pass(program.run_decompositions({torch.ops.aten.group_norm.default: group_norm}))
        for name, constant in program.constants.items():
            # Else XNNPACK takes the first rows of a weight for any of its rows.
            program.constants[name] = constant.detach().clone(memory_format=torch.contiguous_format)
        metadata = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods={"sgformer": metadata}
        )
        path.write_bytes(lowered.to_executorch().buffer)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, _cudnn: bool = True) -> Tensor:
    """Norm over a map whole, by means of means: ExecuTorch adds up a hundred thousand numbers one by one in float32.

    Shape:
        - x, returns: `(B, c, H, W)`; weight, bias: `(c,)`
    """
    assert groups == 1
    x = x - _mean(x)
    return x * (_mean(x * x) + eps).rsqrt() * weight[:, None, None] + bias[:, None, None]


def _mean(x: Tensor) -> Tensor:
    return x.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)


def open_file(path: Path, threads: int) -> Run:
    """The file in ExecuTorch, on the threads that it takes."""
    method = _load(path, "forward")

    def run(x: Tensor) -> Sequence[Tensor]:
        return [output.clone() for output in method.execute([x])]

    return run


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    (metadata,) = _load(path, "sgformer").execute([])
    return json.loads(bytes(metadata.tolist()))


def _load(path: Path, name: str) -> Any:
    from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

    return Runtime.get().load_program(str(path)).load_method(name)
