"""`depthwise_conv` in a Triton kernel for GPUs: one pass over the map for all that follows the convolution.

Backward, what the convolution makes before GELU is computed once more, in the pass that takes GELU's gradient. The
gradient of the map is a convolution, too, with the kernel turned round. That of the kernel is left to cuDNN.
"""

# pyright: reportIndexIssue=false
# (kernels are started by an index.)

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import tiles
from ..tiles import padded
from . import kernels

# Numbers in a tile, and its channels, where there are as many.
TILE = 1024
BLOCK_CHANNELS = 128
# A map is cut into segments of rows until there are so many programs, or so few rows in each.
MIN_PROGRAMS = 1024
MIN_ROWS = 7


def why_not(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> str | None:
    """None, or a sentence: no Triton, no GPU, or a precision that kernels do not have."""
    return tiles.why_not((x, weight, bias))


why_slow = tiles.why_slow


def convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """Compute `reference.convolve` with the Triton kernels of this file."""
    return _apply(x, weight, bias, residual, gelu)


def _tiling(x: Tensor) -> tuple[tuple[int, ...], dict[str, int], tuple[int, int]]:
    """Sizes that the kernel takes, sides of tiles, and the grid of programs."""
    B, H, W, C = x.shape
    columns = min(TILE // BLOCK_CHANNELS, padded(W, least=1))
    channels = min(padded(C), TILE // columns)
    strips, across = -(-W // columns), -(-C // channels)
    segments = 1
    while B * strips * across * segments < MIN_PROGRAMS and -(-H // (segments + 1)) >= MIN_ROWS:
        segments += 1
    rows = -(-H // segments)
    segments = -(-H // rows)
    sides = {"BLOCK_W": columns, "BLOCK_C": channels, "num_warps": 4}
    return (H, W, C, rows, segments, strips), sides, (B * strips * segments, across)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, out: Tensor, hidden: Tensor, residual: bool, mode: int
) -> None:
    """Starts the kernel; `grad` and `hidden` are for the gradient alone."""
    numbers, sides, grid = _tiling(x)
    tensors = x, weight.contiguous(), bias.contiguous(), grad, out, hidden
    constants = {"RESIDUAL": residual, "MODE": mode, "EXACT": x.dtype is torch.float32, **sides}
    kernels.convolve_kernel[grid](*tensors, *numbers, *x.stride()[:3], *grad.stride()[:3], **constants)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool) -> Tensor:
    """The convolution, and its GELU."""
    x = tiles.dense(x)
    out = x.new_empty(x.shape)
    _run(x, weight, bias, x, out, out, residual, kernels.GELU if gelu else kernels.PLAIN)
    return out


def _gelu_gradient(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> tuple[Tensor, Tensor]:
    """The gradient of what goes into GELU, and what comes out of it, both anew."""
    x, grad = tiles.dense(x), tiles.dense(grad)
    out, hidden = x.new_empty(x.shape), x.new_empty(x.shape)
    _run(x, weight, bias, grad, out, hidden, residual, kernels.GRADIENT)
    return out, hidden


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, residual: bool, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of map, kernel and bias, from that of the convolution's output; empty where not wanted."""
    grad_x = grad_weight = grad_bias = x.new_empty(0)
    if wanted[0]:
        turned = weight.flip(2, 3)
        grad_x = _convolve(grad, turned, turned.new_zeros(len(turned)), residual, False)
    if wanted[1] or wanted[2]:
        c = x.shape[-1]
        maps = (grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight.to(x.dtype))
        _, of_weight, of_bias = torch.ops.aten.convolution_backward(
            *maps, [c], [1, 1], [1, 1], [1, 1], False, [0, 0], c, [False, *wanted[1:]]
        )
        grad_weight = of_weight.to(weight.dtype).contiguous() if wanted[1] else x.new_empty(0)
        grad_bias = of_bias.to(weight.dtype) if wanted[2] else x.new_empty(0)
    return grad_x, grad_weight, grad_bias


def _fake_gradients(grad, x, weight, residual, wanted):
    shapes = x.shape, weight.shape, x.shape[-1:]
    kinds = x, weight, weight
    found = (kind.new_empty(shape) for kind, shape in zip(kinds, shapes, strict=True))
    return tuple(y if wants else x.new_empty(0) for y, wants in zip(found, wanted, strict=True))


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, residual: bool, gelu: bool, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """All gradients that are wanted."""
    grad = grad.to(x.dtype)
    if gelu:
        grad, _ = _gelu_gradient(grad, x, weight, bias, residual)
    return _gradients(grad, x, weight, residual, wanted)


def _fake(x, weight, bias, residual, gelu):
    return x.new_empty(x.shape)


def _fake_backward(grad, x, weight, bias, residual, gelu, wanted):
    return _fake_gradients(grad, x, weight, residual, wanted)


def _keep(ctx, inputs, output):
    x, weight, bias, ctx.residual, ctx.gelu = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(backward, ctx, grad):
    wanted = list(ctx.needs_input_grad[:3])
    found = backward(grad, *ctx.saved_tensors, ctx.residual, ctx.gelu, wanted)
    return *(y if wants else None for y, wants in zip(found, wanted, strict=True)), None, None


_apply = tiles.operator(
    "depthwise_conv_triton", _convolve, _fake, _backward, _fake_backward, keep=_keep, differentiate=_differentiate
)

# For a backward pass that is written out elsewhere: operators by themselves, so that `torch.compile` sees them whole.
gelu_gradient = torch.library.custom_op("sgformer::gelu_gradient_triton", _gelu_gradient, mutates_args=())
gradients = torch.library.custom_op("sgformer::depthwise_gradients_triton", _gradients, mutates_args=())


@gelu_gradient.register_fake
def _(grad, x, weight, bias, residual):
    return x.new_empty(x.shape), x.new_empty(x.shape)


gradients.register_fake(_fake_gradients)
