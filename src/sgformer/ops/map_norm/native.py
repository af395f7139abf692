"""`map_norm` by a kernel in C++: two passes over a map, GELU included; an operator for `torch.compile`.

For its gradients it keeps the map. It has no second derivative.
"""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..first_order import first_order


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> str | None:
    """None, or a sentence."""
    if not x.is_contiguous():
        return "it takes contiguous maps"
    tensors, channels = (x, weight, bias), x.shape[-1]
    return native.objection(tensors, channels=channels, opaque=True, gradient=not torch.compiler.is_compiling())


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    """Compute `reference.normalize`."""
    if torch.compiler.is_compiling():
        return _operator(x, weight, bias, eps, gelu)
    return _Normalize.apply(x, weight, bias, eps, gelu)  # pyright: ignore


def _normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
    return native.map_norm(x, weight, bias, eps, gelu=gelu)


_operator = torch.library.custom_op("sgformer::map_norm", _normalize, mutates_args=())
_operator.register_fake(lambda x, *_: torch.empty_like(x))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.numbers = eps, gelu
        return _normalize(x, weight, bias, eps, gelu)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (x, weight, bias), (eps, gelu) = ctx.saved_tensors, ctx.numbers
        return *native.map_norm_gradient(grad.contiguous(), x, weight, bias, eps, gelu=gelu), None, None
