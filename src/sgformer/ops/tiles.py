"""What the Triton kernels of several ops share: tiles of tensors, their products, a softmax of whole rows.

With `TRITON_INTERPRET=1` in the environment, before triton is imported for the first time, kernels run on a CPU,
slowly: that is how machines without a GPU test them.
"""

# pyright: reportPossiblyUnboundVariable=false, reportOperatorIssue=false
# (triton need not be installed.)

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheel for this system; why_not says so
    triton = None

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
    if torch.compiler.is_exporting():
        return "exported programs hold no kernels"
    return None


def why_slow(x: Tensor) -> str | None:
    """None, or a sentence: interpreted kernels are for tests only."""
    return None if x.device.type == "cuda" else "Triton's interpreter is for tests"


def padded(length: int, *, least: int = 16) -> int:
    """The side of a tile that holds `length` things: a power of two, and no less than products of tiles take."""
    return max(least, 1 << (length - 1).bit_length())


def constants() -> dict[str, Any]:
    """What kernels with products of tiles want to know: whether they are interpreted, and the precision of float32."""
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return {"INTERPRET": INTERPRETED, "PRECISION": precision}


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
def softmax(scores):
    """Weights of whole rows of scores that were multiplied with log2(e), and the logarithm of their sum to base 2.

    Rows of minus infinity only have no weight. Their logarithm is infinity, so that they have none either wherever
    weights are computed again from it.
    """
    largest = tl.max(scores, 1)
    weights = tl.exp2(scores - tl.where(largest == float("-inf"), 0.0, largest)[:, None])
    total = tl.sum(weights, 1)
    sees = total > 0
    total = tl.where(sees, total, 1.0)
    return weights / total[:, None], tl.where(sees, largest + tl.log2(total), float("inf"))
