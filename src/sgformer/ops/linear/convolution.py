"""Linear maps in float32 on AMD's processors with AVX-512, at more than twice the speed of PyTorch's own.

PyTorch hands products in float32 to MKL, which leaves AVX-512 unused on a processor that is not Intel's. Convolutions
go to oneDNN, which uses it. A linear map is a convolution with a 1x1 kernel, and a list of tokens is an image of one
column, or some, with channels last, so neither needs a copy to become the other. `benchmarks/choices.py` measures both.

PyTorch has a setting that does as much for all products (`ops/float32.py`); where it is set, this stands back.
"""

import platform
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import is_transformed
from ..float32 import is_fast

# Below so many tokens, or products of numbers, a convolution is no faster.
MIN_TOKENS = 96
MIN_PRODUCTS = 2**23


def _processor() -> str:
    """Read the system's description of the processor, its maker included."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text(errors="replace") if cpuinfo.exists() else platform.processor()


def _mkl_is_slow(processor: str, instructions: str) -> bool:
    return "AuthenticAMD" in processor and instructions == "AVX512" and torch.backends.mkl.is_available()


MKL_IS_SLOW = _mkl_is_slow(_processor(), torch.backends.cpu.get_cpu_capability())


def why_not(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence: a compiler follows, or the tensors are not what oneDNN takes."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a compiler or an exporter follows, which chooses by itself"
    if any(type(y) not in (Tensor, nn.Parameter) for y in (x, weight)):
        return "a tensor is of a kind of its own"
    if any(y.dtype is not torch.float32 or y.device.type != "cpu" for y in (x, weight)):
        return "it computes in float32 on a CPU"
    if not torch.backends.mkldnn.enabled or torch.is_autocast_enabled("cpu") or is_transformed():
        return "oneDNN is turned off, or autocast or a transform of torch.func is on"
    return None


def why_slow(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """None, or a sentence: PyTorch's products are as fast."""
    if not MKL_IS_SLOW or is_fast():
        return "PyTorch's own products are fast on this processor, or set to be"
    tokens = x.shape[:-1].numel()
    return "there is too little to compute" if tokens < MIN_TOKENS or tokens * weight.numel() < MIN_PRODUCTS else None


def is_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear(x, weight)` is computed as a convolution."""
    return why_not(x, weight, None) is None and why_slow(x, weight, None) is None


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `reference.project` by a 1x1 convolution; tokens that are left over make no image, and are few."""
    tokens, rest = _whole_and_rest(x)
    y = F.conv2d(_as_images(tokens), weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(-1, len(weight))
    y = torch.cat([y, F.linear(rest, weight, bias)]) if len(rest) else y
    return y.view(*x.shape[:-1], len(weight))


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute `reference.weight_gradient` by a convolution's own gradient."""
    weight = grad.new_empty((grad.shape[-1], x.shape[-1], 1, 1))  # nothing but its shape is used
    numbers = [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    (grads, grads_rest), (tokens, tokens_rest) = _whole_and_rest(grad), _whole_and_rest(x)
    images = _as_images(grads), _as_images(tokens)
    _, of_weight, _ = torch.ops.aten.convolution_backward(*images, weight, None, *numbers)
    of_weight = of_weight.view(weight.shape[:2])
    return of_weight + grads_rest.t() @ tokens_rest if len(tokens_rest) else of_weight


def _num_images() -> int:
    """Choose as how many images tokens go to oneDNN: with one thread, PyTorch keeps 1x1 convolutions of few from it."""
    return 1 if torch.get_num_threads() > 1 else 16


def _whole_and_rest(x: Tensor) -> tuple[Tensor, Tensor]:
    """A list of tokens in two: those that make whole images, and the others."""
    x = x.flatten(0, -2)
    rest = len(x) % _num_images()
    return x[: len(x) - rest], x[len(x) - rest :]


def _as_images(x: Tensor) -> Tensor:
    """`(..., c)` as images `(images, c, n, 1)` with channels last."""
    return x.reshape(_num_images(), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
