"""`attention` for a gradient on a CPU by plain products, with the weights computed once more in the backward pass.

PyTorch's fused kernel keeps as little, but its backward pass takes many times as long where heads are small.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..dispatch import is_transformed
from ..first_order import first_order
from ..float32 import is_fast
from . import products
from .reference import scaled_products

# Weights that are computed at a time: 4 MB, which stay in the cache.
PIECE = 2**20
# Of a head with more weights the fused kernel computes the gradient faster.
MAX_HEAD_WEIGHTS = 2**18


def why_not(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a compiler or an exporter follows, which chooses by itself"
    if any(type(x) not in (Tensor, nn.Parameter) for x in (q, k, v)):
        return "a tensor is of a kind of its own"
    if torch.is_autocast_enabled("cpu") or is_transformed():
        return "autocast or a transform of torch.func is on"
    return None


def why_slow(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """None, or a sentence: PyTorch's fused attention does better, or nothing has to be kept."""
    if q.device.type != "cpu" or q.dtype is not torch.float32 or not is_fast():
        return "it is for a CPU with fast products in float32"
    if not torch.is_grad_enabled() or not any(x.requires_grad for x in (q, k, v)):
        return "no gradient is wanted"
    return "heads are large" if q.shape[2] * k.shape[2] > MAX_HEAD_WEIGHTS else None


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute `reference.attend`, which keeps only its inputs. Has no second derivative."""
    return _Anew.apply(q, k, v)  # pyright: ignore


def _pieces(*maps: Tensor, weights: int) -> Iterator[tuple[Tensor, ...]]:
    """Some images at a time, for tensors with this many weights an image."""
    return zip(*(x.split(max(1, PIECE // max(1, weights))) for x in maps), strict=True)


class _Anew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        weights = q.shape[1] * q.shape[2] * k.shape[2]
        return torch.cat([products.attend(*piece) for piece in _pieces(q, k, v, weights=weights)])

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        q, k, v = ctx.saved_tensors
        weights, wanted = q.shape[1] * q.shape[2] * k.shape[2], ctx.needs_input_grad
        found = [_gradients(*piece, wanted=wanted) for piece in _pieces(grad, q, k, v, weights=weights)]
        columns = ([piece for piece in column if piece is not None] for column in zip(*found, strict=True))
        return tuple(torch.cat(column) if column else None for column in columns)


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *, wanted: Sequence[bool]) -> list[Tensor | None]:
    """Gradients of the queries, keys and values, those that are wanted."""
    scale = q.shape[-1] ** -0.5
    weights = scaled_products(q, k, scale).softmax(-1)
    grad_v = weights.mT @ grad if wanted[2] else None
    if not any(wanted[:2]):
        return [None, None, grad_v]
    grad_scores = grad @ v.mT
    # Softmax: dS = P * (dP - sum(P * dP)).
    grad_scores -= (weights * grad_scores).sum(-1, keepdim=True)
    grad_scores *= weights
    grad_q = scale * (grad_scores @ k) if wanted[0] else None
    return [grad_q, scale * (grad_scores.mT @ q) if wanted[1] else None, grad_v]
