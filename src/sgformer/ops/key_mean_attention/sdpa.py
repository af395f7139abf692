"""`key_mean_attention` with the output from PyTorch's fused attention, and the key means from a pass of their own.

The second pass computes the weights of a part of the queries, sums them and drops them, so nothing of size `N * M` is
kept. That is three products where `chunked` has two. It pays where the fused kernel is much faster than plain products:
on GPUs, if there is no Triton.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..first_order import first_order
from . import chunked, reference
from .reference import count_flops


def why_not(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: inputs that the fused kernels or the second pass do not know."""
    if mask is not None:
        return "it takes no mask"
    if q.device.type not in ("cpu", "cuda"):
        return f"there is no fused attention that it knows on {q.device.type!r}"
    if q.device.type == "cuda" and q.dtype is torch.float64:
        return "PyTorch has no fused attention for float64 on GPUs"
    if min(*q.shape, k.shape[2]) == 0:
        return "there is nothing to attend to or with"
    return None


def why_slow(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> str | None:
    """None, or a sentence: the second pass does not pay."""
    if q.device.type == "cpu":
        return "on a CPU a second pass over the weights costs more than the fused kernel saves"
    if reference.why_slow(q, k, v, scale, mask) is None:
        return "there are so few weights that keeping them is cheaper than a second pass"
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `reference.attend` in memory that does not grow with `N * M`."""
    out, key_mean = _forward(q, k, v, scale)
    return out, key_mean.detach()


@torch.library.custom_op("sgformer::key_mean_attention_sdpa", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        key_sum = chunked.sum_of_weights(q, k, scale)
    key_mean = key_sum / (q.shape[1] * q.shape[2])
    return out.contiguous(), key_mean.to(torch.promote_types(q.dtype, torch.float32))


@_forward.register_fake
def _(q, k, v, scale):
    dtype = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(q.shape), q.new_empty((q.shape[0], k.shape[2]), dtype=dtype)


def _setup_context(ctx, inputs, output):
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, _grad_of_key_mean):
    # With a softmax of its own: the fused kernel's gradients in float32 are up to five times as far off as plain ones.
    return (*chunked.backward(grad, *ctx.saved_tensors, ctx.scale, None), None)


_forward.register_autograd(first_order(_differentiate), setup_context=_setup_context)

register_flop_formula(torch.ops.sgformer.key_mean_attention_sdpa)(count_flops)
