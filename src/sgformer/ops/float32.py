"""Float32 products on a CPU by the faster of the two libraries in PyTorch, by a public setting of PyTorch's.

PyTorch hands products in float32 to MKL, which on a processor that is not Intel's leaves half of it unused. Under
`torch.set_float32_matmul_precision("medium")` they go to oneDNN, which uses all of it. The setting also allows oneDNN
to round to bfloat16, where the processor is the faster for that. So it is looked at first: some products, and how far
they are off.
"""

import functools
from typing import Self

import torch

# Products in float32 are off by less than 1e-6 of themselves, in bfloat16 by 3e-3, in TF32 by 3e-4.
MAX_ERROR = 1e-5
# Of products (rows, inner, columns), one of them a batch of many, as attention has them.
SHAPES = ((1, 512, 256, 384), (1, 196, 256, 1024), (16, 49, 32, 49))


class fast_float32:
    """Makes PyTorch compute float32 products on this CPU by the faster library, where they stay float32.

    It serves any model. Called, it holds until `restore`; as a context, within it. It sets nothing where the setting
    would round products to bfloat16 (that is measured once in a process, which takes milliseconds), where there is a
    GPU, whose products the same setting would round, and where somebody has set a precision before. The setting is
    one for the whole process.

    Attributes:
        objection: why nothing was set, in a sentence; None where products are fast now.

    Example:
        >>> before = torch.get_float32_matmul_precision()
        >>> with fast_float32():
        ...     y = torch.nn.functional.linear(torch.ones(4, 3), torch.ones(2, 3))
        >>> torch.get_float32_matmul_precision() == before
        True
    """

    def __init__(self) -> None:
        self.objection = why_not()
        self._sets = self.objection is None and not is_fast()
        if self._sets:
            torch.set_float32_matmul_precision("medium")

    def restore(self) -> None:
        """Sets what was set before."""
        if self._sets:
            torch.set_float32_matmul_precision("highest")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def why_not() -> str | None:
    """None, or a sentence that says why `fast_float32` sets nothing."""
    if is_fast():
        return None  # whoever set it knows, and there is nothing to do
    if (precision := _precision()) != "highest":
        return f"the precision of float32 products was set before, to {precision!r}"
    if torch.cuda.is_available():
        return "the setting would round products on the GPU, too"
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "this PyTorch has no oneDNN, or it is switched off"
    if (error := _error()) > MAX_ERROR:
        return f"products would be rounded on this processor: they are off by {error:.0e}"
    return None


def is_fast() -> bool:
    """Whether products in float32 on a CPU go to oneDNN by PyTorch's setting, whoever set it."""
    return _precision() in ("medium", "bf16")


def _precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody used PyTorch's newer names for it, which it wants asked one by one
        return str(torch.backends.mkldnn.matmul.fp32_precision)  # pyright: ignore[reportAttributeAccessIssue]


@functools.cache
def _error() -> float:
    """The largest relative error of some products under the setting. Only called while nothing is set."""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(batch, rows, inner, generator=generator), torch.randn(batch, columns, inner, generator=generator))
        for batch, rows, inner, columns in SHAPES
    ]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            made = [x @ y.mT for x, y in pairs]
    finally:
        torch.set_float32_matmul_precision("highest")
    right = [x.double() @ y.double().mT for x, y in pairs]
    return max(float((a - b).norm() / b.norm()) for a, b in zip(made, right, strict=True))
