"""Formats that `sgformer export` writes: what each needs, how it is written, and how it is run."""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from packaging.version import Version
from torch import Tensor

Run = Callable[[Tensor], Sequence[Tensor]]


class Writer(Protocol):
    """Protocol of a format's module."""

    def write(self, path: Path, program: Any, about: dict[str, Any]) -> None:
        """Writes a `torch.export.ExportedProgram`, and what the file says of itself."""

    def open_file(self, path: Path, threads: int) -> Run:
        """The file as a function from prepared images to all that it gives, on the CPU."""
        ...

    def read_about(self, path: Path) -> dict[str, Any]:
        """Read the metadata of a file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file."""

    module: str  # of this package
    # That are imported to write it and to run it, by the names by which they are installed; the last one runs it.
    packages: dict[str, str]
    extra: str  # of sgformer, which installs them
    oldest: dict[str, str] = field(default_factory=dict)  # versions below which files are written that do not run
    convs: bool = False  # whether projections beside convolutions are convolutions, too; see `fast.exported`
    open_sizes: bool = False  # whether a file may take images of many sizes, in batches
    lists: bool = False  # whether it may find objects: it has `NonMaxSuppression` and `RoiAlign`
    runs_here: bool = True  # whether its runtime is to be had on this system, so that a file is checked

    @property
    def writer(self) -> Writer:
        """The module."""
        return importlib.import_module(f".{self.module}", __name__)  # pyright: ignore[reportReturnType]

    def require(self) -> None:
        """Raises an error if a package is not installed, or too old."""
        suffix = next(suffix for suffix, kind in FORMATS.items() if kind is self)
        remedy = f"pip install --upgrade 'sgformer[{self.extra}]'"
        missing = [name for name, package in self.packages.items() if importlib.util.find_spec(package) is None]
        if missing:
            raise ModuleNotFoundError(f"{suffix} files need {' and '.join(missing)}: {remedy}", name=missing[0])
        for name, least in self.oldest.items():
            if Version(importlib.metadata.version(name)) < Version(least):
                raise ValueError(f"{suffix} files need {name} {least} or newer: {remedy}")

    @property
    def runtime(self) -> str:
        """Name the runtime of its files, with its version."""
        name = list(self.packages)[-1]
        return f"{name} {importlib.metadata.version(name)}"


FORMATS = {
    ".onnx": Format(
        module="onnx_file",
        packages={"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
        oldest={"onnxscript": "0.7.2"},
        extra="export",
        convs=True,
        open_sizes=True,
        lists=True,
    ),
    ".pt2": Format(module="torch_program", packages={"torch": "torch"}, extra="train", open_sizes=True, lists=True),
    ".xml": Format(
        module="openvino_ir",
        packages={"onnx": "onnx", "onnxscript": "onnxscript", "openvino": "openvino"},
        oldest={"onnxscript": "0.7.2"},
        extra="openvino",
        convs=True,
        open_sizes=True,
    ),
    ".tflite": Format(
        module="litert", packages={"litert-torch": "litert_torch", "ai-edge-litert": "ai_edge_litert"}, extra="litert"
    ),
    ".pte": Format(module="executorch_program", packages={"executorch": "executorch"}, extra="executorch"),
    ".mlpackage": Format(
        module="coreml", packages={"coremltools": "coremltools"}, extra="coreml", runs_here=sys.platform == "darwin"
    ),
}


def format_of(path: str | Path) -> Format:
    """The kind of a file, by its suffix; ValueError where there is no such kind."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        *most, last = FORMATS
        raise ValueError(f"the file to write is called {path}; its name must end in {', '.join(most)} or {last}")
    return FORMATS[suffix]


def open_exported(path: str | Path, *, threads: int = 0) -> Run:
    """Open what `export` wrote: a function from prepared images to all that it gives, on the CPU.

    ``threads`` are those of the runtime; 0: its own choice.
    """
    return format_of(path).writer.open_file(Path(path), threads)


def about_exported(path: str | Path) -> dict[str, Any]:
    """The metadata of an exported file: classes, preprocessing, sizes and names."""
    return format_of(path).writer.read_about(Path(path))
