"""`merge_tokens` in a Triton kernel a direction: tokens are read where they are, and never copied into groups.

Forward, a program makes one summary token. Backward, a program takes a stretch of the ranking: each token is at one
place of it, so its gradient is gathered from the groups that it is in and written once.
"""

# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false
# (kernels are started by an index, and their language is not quite Python.)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import tiles
from ..group_tokens import Band
from ..tiles import jit, padded, tl
from .reference import Merging

MAX_CHANNELS = 512
# Members of a group that a program reads at a time, at most; numbers in a tile of the backward pass.
MAX_MEMBERS = 32
MIN_PROGRAMS = 1024
BLOCK_NUMBERS = 4096


def why_not(x: Tensor, ranking: Tensor, by: Merging) -> str | None:
    """None, or a sentence: no Triton, no GPU, or inputs that the kernels do not know."""
    if reason := tiles.why_not((x, *by.weights, *by.biases)):
        return reason
    if x.shape[-1] > MAX_CHANNELS:
        return f"a token has {x.shape[-1]} channels, more than {MAX_CHANNELS}"
    return None


why_slow = tiles.why_slow


def merge(x: Tensor, ranking: Tensor, by: Merging) -> Tensor:
    """Compute `reference.merge` with the Triton kernels of this file."""
    lengths, sizes = [band.length for band in by.bands], [weight.numel() for weight in by.weights]
    return _apply(x, ranking, torch.cat(list(by.weights)), torch.cat(list(by.biases)), lengths, sizes, by.factor)


@jit
def _of_band(m, a0, a1, a2, G0, G1):
    """Choose from three numbers, one for each band, that of the band in which the `m`-th group is."""
    return tl.where(m < G0, a0, tl.where(m < G0 + G1, a1, a2))


@jit
def _forward_kernel(
    x, ranking, weight, bias, out, N, M, factor, x_b, x_n, x_c, rank_b,
    L0, L1, L2, G0, G1, R0, R1, R2,
    c: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, C)
    for m in range(tl.program_id(0) * GROUPS, tl.minimum(tl.program_id(0) * GROUPS + GROUPS, M)):
        start = _of_band(m, 0, L0, L0 + L1, G0, G1)
        length = _of_band(m, L0, L1, L2, G0, G1)
        members = _of_band(m, R0, R1, R2, G0, G1) * factor
        group = m - _of_band(m, 0, G0, G0 + G1, G0, G1)
        of_band = weight + _of_band(m, 0, R0, R0 + R1, G0, G1)
        total = tl.zeros((C,), tl.float32)
        for first in range(0, members, BLOCK):
            member = first + tl.arange(0, BLOCK)
            exists = member < members
            place = start + (group * members + member) % length
            token = tl.load(ranking + image * rank_b + place, mask=exists, other=0)
            at = image * x_b + token[:, None] * x_n + channels[None, :] * x_c
            tile = tl.load(x + at, mask=exists[:, None] & (channels < c)[None, :], other=0.0)
            counts = tl.load(of_band + member // factor, mask=exists, other=0.0).to(tl.float32)
            total += tl.sum(tile.to(tl.float32) * counts[:, None], 0)
        total = total / factor + tl.load(bias + _of_band(m, 0, 1, 2, G0, G1)).to(tl.float32)
        tl.store(out + (image * M + m) * c + channels, total.to(out.dtype.element_ty), mask=channels < c)


@jit
def _backward_kernel(
    x, ranking, weight, grad, grad_x, products, N, M, S, factor, wraps, x_b, x_n, x_c, rank_b, g_b, g_m, g_c,
    L0, L1, L2, G0, G1, G2, R0, R1, R2,
    c: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of tokens; and the product of each with the gradient of its summary token, place by place."""
    image = tl.program_id(1).to(tl.int64)
    rank = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_rank = rank < N
    start = _of_band(rank, 0, L0, L0 + L1, L0, L1)
    length = _of_band(rank, L0, L1, L2, L0, L1)
    r = _of_band(rank, R0, R1, R2, L0, L1)
    groups = _of_band(rank, G0, G1, G2, L0, L1)
    first_group = _of_band(rank, 0, G0, G0 + G1, L0, L1)
    first_weight = _of_band(rank, 0, R0, R0 + R1, L0, L1)
    first_slot = _of_band(rank, 0, G0 * R0, G0 * R0 + G1 * R1, L0, L1) * factor
    members = tl.maximum(r * factor, 1)  # beyond the last rank there may be no band
    channels = tl.arange(0, C)
    is_channel = (channels < c)[None, :]
    token = tl.load(ranking + image * rank_b + rank, mask=is_rank, other=0)
    at = image * x_b + token[:, None] * x_n + channels[None, :] * x_c
    tile = tl.load(x + at, mask=is_rank[:, None] & is_channel, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK, C), tl.float32)
    for wrap in range(wraps):  # a token at the start of its band may be in its last group as well
        slot = rank - start + wrap * length
        exists = is_rank & (slot < groups * members)
        group = first_group + slot // members
        of_group = grad + image * g_b + group[:, None] * g_m + channels[None, :] * g_c
        g = tl.load(of_group, mask=exists[:, None] & is_channel, other=0.0).to(tl.float32)
        member = slot % members // factor
        counts = tl.load(weight + first_weight + member, mask=exists, other=0.0).to(tl.float32)
        total += g * (counts / factor)[:, None]
        tl.store(products + image * S + first_slot + slot, tl.sum(tile * g, 1), mask=exists)
    of_token = grad_x + (image * N + token)[:, None] * c + channels[None, :]
    tl.store(of_token, total.to(grad_x.dtype.element_ty), mask=is_rank[:, None] & is_channel)


def _three(numbers: Sequence[int]) -> list[int]:
    """Numbers of three bands; where there are two, the last one is empty."""
    return [*numbers, 0][:3]


def _groups(lengths: Sequence[int], sizes: Sequence[int], factor: int) -> list[int]:
    return [Band(0, length, r).num_groups(factor) for length, r in zip(lengths, sizes, strict=True)]


def _merge(
    x: Tensor, ranking: Tensor, weight: Tensor, bias: Tensor, lengths: Sequence[int], sizes: Sequence[int], factor: int
) -> Tensor:
    B, N, c = x.shape
    groups = _groups(lengths, sizes, factor)
    M = sum(groups)
    out = x.new_empty((B, M, c))
    # Tokens in groups of one or two are hardly work enough for a program of their own.
    members = min(MAX_MEMBERS, padded(max(sizes) * factor, least=1))
    together = 8 if B * M >= 8 * MIN_PROGRAMS and members < MAX_MEMBERS else 1
    tensors = x, ranking, weight.contiguous(), bias.contiguous(), out
    numbers = N, M, factor, *x.stride(), ranking.stride(0), *_three(lengths), *groups[:2], *_three(sizes)
    constants = {"c": c, "C": padded(c), "BLOCK": members, "GROUPS": together, "num_warps": 2}
    _forward_kernel[-(-M // together), B](*tensors, *numbers, **constants)
    return out


def _fake(x, ranking, weight, bias, lengths, sizes, factor):
    return x.new_empty((x.shape[0], sum(_groups(lengths, sizes, factor)), x.shape[2]))


def _backward(
    grad: Tensor,
    x: Tensor,
    ranking: Tensor,
    weight: Tensor,
    lengths: Sequence[int],
    sizes: Sequence[int],
    factor: int,
    of_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, c = x.shape
    groups = _groups(lengths, sizes, factor)
    slots = [g * r * factor for g, r in zip(groups, sizes, strict=True)]
    wraps = max(-(-slot // length) for slot, length in zip(slots, lengths, strict=True) if length)
    grad_x = x.new_empty((B, N, c))
    products = x.new_empty((B, sum(slots)), dtype=torch.float32)
    C = padded(c)
    block = max(BLOCK_NUMBERS // C, 8)
    tensors = x, ranking, weight.contiguous(), grad, grad_x, products
    numbers = N, sum(groups), sum(slots), factor, wraps, *x.stride(), ranking.stride(0), *grad.stride()
    of_bands = *_three(lengths), *_three(groups), *_three(sizes)
    constants = {"c": c, "C": C, "BLOCK": block, "num_warps": 4}
    _backward_kernel[-(-N // block), B](*tensors, *numbers, *of_bands, **constants)
    if not of_parameters:
        return grad_x, x.new_empty(0), x.new_empty(0)
    grad_weight = [
        of_band.reshape(B * g, r, factor).sum((0, 2)) / factor
        for of_band, g, r in zip(products.split(slots, 1), groups, sizes, strict=True)
    ]
    of_groups = grad.float().sum((0, 2)).split(groups)
    grad_bias = torch.stack([of_band.sum() for of_band in of_groups])
    return grad_x, torch.cat(grad_weight).to(weight.dtype), grad_bias.to(weight.dtype)


def _fake_backward(grad, x, ranking, weight, lengths, sizes, factor, of_parameters):
    if not of_parameters:
        return x.new_empty(x.shape), x.new_empty(0), x.new_empty(0)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(lengths))


def _keep(ctx, inputs, output):
    x, ranking, weight, _, ctx.lengths, ctx.sizes, ctx.factor = inputs
    ctx.save_for_backward(x, ranking, weight)


def _differentiate(backward, ctx, grad):
    of_parameters = any(ctx.needs_input_grad[2:4])
    numbers = ctx.lengths, ctx.sizes, ctx.factor
    grad_x, *of_both = backward(grad, *ctx.saved_tensors, *numbers, of_parameters)
    return grad_x, None, *(of_both if of_parameters else (None, None)), None, None, None


_apply = tiles.operator(
    "merge_tokens_triton", _merge, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate
)
