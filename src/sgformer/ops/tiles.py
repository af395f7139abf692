"""Shared parts of the Triton kernels: tiles of tensors, their products, a softmax of whole rows.

With `TRITON_INTERPRET=1` in the environment, before triton is imported for the first time, kernels run on a CPU,
slowly: that is how machines without a GPU test them.
"""

# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false, reportInvalidTypeForm=false
# (triton need not be installed.)

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .first_order import first_order

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheel for this system; why_not says so
    triton = tl = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def jit(kernel: Any) -> Any:
    """The kernel, compiled by Triton; as it is where there is none, for it is never run then."""
    return triton.jit(kernel) if triton else kernel


def why_not(tensors: Iterable[Tensor]) -> str | None:
    """None, or a sentence: no Triton, no GPU, a precision that kernels do not have, nothing to do."""
    if triton is None:
        return "triton is not installed"
    for x in tensors:
        if x.device.type != "cuda" and not (INTERPRETED and x.device.type == "cpu"):
            return f"its kernels run on GPUs, and the inputs are on {x.device.type!r}"
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it computes in float32, which is too little for {str(x.dtype).removeprefix('torch.')}"
        if x.numel() == 0:
            return "there is nothing to compute"
    return None


def why_slow(x: Tensor, *args: Any) -> str | None:
    """None, or a sentence: interpreted kernels are for tests only."""
    return None if x.device.type == "cuda" else "Triton's interpreter is for tests"


def padded(length: int, *, least: int = 16) -> int:
    """The side of a tile that holds `length` things: a power of two, and no less than products of tiles take."""
    return max(least, 1 << (length - 1).bit_length())


def constants() -> dict[str, Any]:
    """Return the constants of kernels with products of tiles: interpreted or not, precision of float32."""
    # The old name of the setting may not be read once the new one was used, and PyTorch 2.8 has no new one.
    setting = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    tf32 = setting == "tf32" if setting is not None else torch.backends.cuda.matmul.allow_tf32
    precision = "tf32" if tf32 else "ieee"
    return {"INTERPRET": INTERPRETED, "PRECISION": precision}


def dense(x: Tensor) -> Tensor:
    """The map itself if the channels of a token are neighbours, else a copy in which they are."""
    return x if x.stride(-1) == 1 else x.contiguous()


def operator(
    name: str,
    forward: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any],
    fake_backward: Callable[..., Any],
    *,
    keep: Callable[..., None],
    differentiate: Callable[..., Any],
) -> Any:
    """Functions that start kernels as one operator, opaque to `torch.compile` and autograd.

    Args:
        name: the operator's, under `torch.ops.sgformer`; that of its backward pass ends in `_backward`.
        forward: the function; its annotations are the operator's schema.
        fake: takes the same, and returns empty tensors of the results' shapes.
        backward: a function likewise that computes gradients.
        fake_backward: what `fake` is to it.
        keep: takes autograd's context, inputs and results, and puts away what the backward pass needs.
        differentiate: takes the operator of `backward`, the context and the results' gradients.
    """
    gradients = torch.library.custom_op(f"sgformer::{name}_backward", backward, mutates_args=())
    gradients.register_fake(fake_backward)
    op = torch.library.custom_op(f"sgformer::{name}", forward, mutates_args=())
    op.register_fake(fake)
    op.register_autograd(functools.partial(first_order(differentiate), gradients), setup_context=keep)
    return op


@jit
def dot(x, y, INTERPRET: tl.constexpr, PRECISION: tl.constexpr):
    """A product of tiles that accumulates in float32. The interpreter's is wrong in bfloat16, so it gets float32."""
    if INTERPRET:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    return tl.dot(x, y, input_precision=PRECISION)


@jit
def load_rows(pointer, rows, num_rows, stride_row, stride_channel, d: tl.constexpr, D: tl.constexpr):
    """A tile `(rows, D)` of a matrix; zeros beyond the last row and the last of `d` channels."""
    channels = tl.arange(0, D)
    exists = (rows < num_rows)[:, None] & (channels < d)[None, :]
    at = pointer + rows.to(tl.int64)[:, None] * stride_row + channels[None, :] * stride_channel
    return tl.load(at, mask=exists, other=0.0)


@jit
def softmax(scores, exists):
    """Weights of whole rows of scores that were multiplied with log2(e), and the logarithm of their sum to base 2.

    Rows that do not exist, and rows of minus infinity only, have no weight. Their logarithm is infinity, so that they
    have none either wherever weights are computed again from it.
    """
    largest = tl.max(scores, 1)
    weights = tl.exp2(scores - tl.where(largest == float("-inf"), 0.0, largest)[:, None])
    total = tl.sum(weights, 1)
    exists = exists & (total > 0)
    total = tl.where(exists, total, 1.0)
    share = tl.where(exists, 1.0 / total, 0.0)
    return weights * share[:, None], tl.where(exists, largest + tl.log2(total), float("inf"))


@jit
def gelu_parts(x, EXACT: tl.constexpr):
    """The share of `x` that GELU lets through, which is a normal distribution's integral; and the density there.

    Where not exact, the integral is off by less than 1e-7: far below the digits of bfloat16 and float16, in a third of
    the operations. Source: Abramowitz and Stegun, formula 7.1.26.
    """
    density = tl.exp2(x * x * -0.7213475204444817)  # exp(-x**2 / 2), as yet without its factor
    if EXACT:
        cdf = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    else:
        t = 1.0 / (1.0 + 0.2316418882663604 * tl.abs(x))
        tail = ((((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t
        tail = tail * density
        cdf = tl.where(x < 0, tail, 1.0 - tail)
    return cdf, density * 0.3989422804014327
