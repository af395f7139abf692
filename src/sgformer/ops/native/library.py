"""Compiling and loading the kernels, and the conditions that all of them have."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn as nn
from torch import Tensor

from ..dispatch import is_dual, is_exporting, is_transformed, is_watched

SOURCE = Path(__file__).with_name("kernels.cpp")
INCLUDED = [Path(__file__).with_name(name) for name in ("ops.h", "gradients.h", "regions.h")]
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
SECONDS = 120
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

# How many numbers of the inner dimension products take at a time.
INNER = 32

_library: Any = None
_has_low_products = False  # whether there are kernels with products in bfloat16


class use_kernels:
    """Compiles kernels for this processor, unless that was done before, and computes with them.

    For predictions on a CPU in float32 or bfloat16 of this package's models, and for their training in float32. It
    takes a C++ compiler, `$CXX`, `c++` or `g++`, and five seconds; what it makes is kept in the user's cache,
    `$XDG_CACHE_HOME/sgformer` or `~/.cache/sgformer`. Called, it holds until `restore`; as a context, within it; for
    all threads of the process.

    Attributes:
        objection: why there are no kernels, in a sentence; None where they are used now.

    Example:
        >>> with use_kernels() as kernels:
        ...     found = kernels.objection  # None, or what is missing, with the remedy
    """

    def __init__(self) -> None:
        global _library, _has_low_products
        self._before = _library
        found = _compiled()
        self.objection = found if isinstance(found, str) else None
        if self.objection is None:
            _library = found
            _has_low_products = hasattr(found, "linear_bfloat16")

    def restore(self) -> None:
        """Computes as before."""
        global _library
        _library = self._before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


@functools.cache
def _compiled() -> ctypes.CDLL | str:
    """The library, or a sentence that says why there is none."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "the kernels are for processors with AVX-512"
    compiler = next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++"))), None)
    if compiler is None:
        return "there is no C++ compiler: install g++, or name one by the environment variable CXX"
    try:
        parts = compiler.encode(), _instructions(), repr(FLAGS).encode()
        key = hashlib.sha256(b"\0".join((*parts, *(path.read_bytes() for path in (SOURCE, *INCLUDED)))))
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgformer"
        library = folder / f"kernels-{key.hexdigest()[:16]}.so"
        if not library.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as new:  # others may compile at the same time
                made = Path(new) / library.name
                command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
                made.replace(library)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"{compiler} made no kernels: {_complaint(error)}"


def _instructions() -> bytes:
    """Instructions that the processor knows, as the system lists them: machines that share a home may differ."""
    described = Path("/proc/cpuinfo").read_bytes() if Path("/proc/cpuinfo").exists() else b""
    return next((line for line in described.splitlines() if line.startswith(b"flags")), b"")


def _complaint(error: Exception) -> str:
    """The first error that a compiler told, or what else went wrong."""
    told = getattr(error, "stderr", None)
    lines = told.decode(errors="replace").split("\n") if told else []
    return next((line for line in lines if "error" in line), str(error))


def objection(
    tensors: Sequence[Tensor],
    *,
    channels: int = 16,
    products: bool = False,
    opaque: bool = False,
    gradient: bool = False,
) -> str | None:
    """None, or a sentence that says why no kernel takes these tensors, all of one dtype, the first one a map.

    `channels` are those of a head or of the map. The kernel may have matrix `products`, be an operator for
    `torch.compile` (`opaque`), and have one for its `gradient`.
    """
    compiling = torch.compiler.is_compiling()
    if is_exporting() or torch.jit.is_tracing() or (compiling and not opaque):
        return "a compiler or an exporter follows"
    if _library is None:
        return "there are no kernels; sgformer.fast.use_kernels() makes them"
    first = tensors[0]
    if first.dtype not in NAMES:
        return "it computes in float32"
    if products and first.dtype is torch.bfloat16 and not _has_low_products:
        return "the processor has no products in bfloat16, or better ones"
    for x in tensors:
        if type(x) not in (Tensor, nn.Parameter) or x.device.type != "cpu" or x.dtype is not first.dtype:
            return "a tensor is not on a CPU, or of another kind or dtype"
        if x.requires_grad and torch.is_grad_enabled() and not (gradient and x.dtype is torch.float32):
            return "a gradient is wanted"
        if x.numel() == 0 or x.stride(-1) != 1:
            return "channels are not neighbours in memory, or there are none"
    if channels % 16:
        return "it takes 16 channels at a time"
    if torch.is_autocast_enabled("cpu") or (not compiling and (is_transformed() or is_dual() or is_watched())):
        return "autocast, a transform of torch.func, forward_ad or something that watches operations is on"
    return None


def run(name: str, dtype: torch.dtype, numbers: Sequence[int], *more: float) -> None:
    """Runs a kernel, by its name without the dtype, on addresses, sizes and strides, and what else it takes.

    A gradient may be computed when kernels are no longer used: those that were compiled stay.
    """
    array = (ctypes.c_int64 * len(numbers))(*numbers)
    getattr(_library or _compiled(), f"{name}_{NAMES[dtype]}")(array, *map(ctypes.c_double, more))
