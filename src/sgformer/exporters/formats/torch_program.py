"""`.pt2` files, for `torch.export.load`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import Run


def write(path: Path, program: Any, about: dict[str, Any]) -> None:
    """A file that refuses sizes outside its range."""
    torch.export.save(program, path, extra_files={"sgformer": json.dumps(about)})


def open_file(path: Path, threads: int) -> Run:
    """The file in PyTorch, on the threads that PyTorch has."""
    module = torch.export.load(path).module()

    def run(x: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(x)

    return run


def read_about(path: Path) -> dict[str, Any]:
    """The file's metadata."""
    files = {"sgformer": ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files["sgformer"])
