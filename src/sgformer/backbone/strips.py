"""Prediction on a CPU a strip of rows at a time, where maps are too large for the cache.

The hidden map of an MLP is four times as large as its input. Written to memory and read again by every operation, it
costs more time than the products, and most of the memory of a pass. So the MLP of a block, with its norm and residual,
goes over each picture in strips whose hidden rows stay in the cache: no hidden map is ever whole. What the depthwise
convolution needs of the next strip is one row, and of the last one another: they are computed once and kept, or twice
where that is faster. An attention goes over the picture likewise, once its keys and values are there.

Everything is as in the plain way, and so are the numbers, up to the order of sums. Training, compilation, export and
other devices take the plain way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.module import _has_any_global_hook

from ..ops import linear
from ..ops.dispatch import is_transformed
from ..ops.linear import is_convolution
from ..ops.pieces import pays

_HERE = __name__.rpartition(".")[0] + "."

# Numbers in the hidden rows of a strip, at most: 4 MB in float32.
STRIP_SIZE = 2**20
# Numbers in the rows of a strip of an attention's map, at most.
ATTENTION_STRIP_SIZE = 2**19


def in_pieces(x: Tensor, size: int) -> bool:
    """Whether a map of `size` numbers is better cut: in plain prediction on a CPU, where it is large.

    Args:
        x: a tensor of the same device.
        size: numbers in the largest map.
    """
    return pays(x, size) and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def unobserved(*modules: nn.Module) -> bool:
    """Whether no hook wants to be called with these, and none has another `forward`."""
    return not _has_any_global_hook() and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        for module in modules
    )


def is_plain(*modules: nn.Module) -> bool:
    """Whether these compute what this package makes them for, unobserved, so that their weights tell all."""
    return unobserved(*modules) and all(
        module.bias is not None
        if type(module) in (nn.Linear, nn.LayerNorm)
        else type(module).__module__.startswith(_HERE) and getattr(module, "padding_mode", "zeros") == "zeros"
        for module in modules
    )


def has_own_gradient(*modules: nn.Module) -> bool:
    """Whether a gradient of our own may take the place of autograd's for plain modules."""
    if not torch.is_grad_enabled() or not is_plain(*modules):
        return False
    return torch.compiler.is_compiling() or not (torch.jit.is_tracing() or is_transformed())


def keeps_for_gradient(*modules: nn.Module) -> bool:
    """Whether autograd, left to itself, would keep what plain modules make: `torch.compile` chooses by itself."""
    return not torch.compiler.is_compiling() and has_own_gradient(*modules)


def add_mlp_(
    x: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, convolve_rows: Callable[[Tensor], Tensor], fc2: nn.Linear
) -> Tensor:
    """`x + mlp(norm(x))`, a strip of rows at a time, in the memory of `x`. No gradient.

    Args:
        x: the map; overwritten.
        norm: before the MLP.
        fc1: the MLP's first projection.
        convolve_rows: what comes after it, the GELU included; `DepthwiseConv.convolve_rows`.
        fc2: its second projection.

    Shape:
        - x, returns: `(B, H, W, c)`
    """
    B, H, W, _ = x.shape
    height = min(H, max(2, STRIP_SIZE // (W * fc1.out_features)))
    strip = x[:1, :height]
    hidden_strips = _anew if is_convolution(strip, fc1.weight) else _kept
    for b in range(B):
        for top, rows in hidden_strips(x[b], height, norm, fc1):
            x[b, top : top + height] += linear(convolve_rows(rows), fc2.weight, fc2.bias)
    return x


def _kept(x: Tensor, height: int, norm: nn.LayerNorm, fc1: nn.Linear) -> Iterator[tuple[int, Tensor]]:
    """The top of each strip, and its hidden rows with one above and one below, which are kept for the next one.

    Shape:
        - x: `(H, W, c)`
        - returns: `(height + 2, W, hidden)`, the last strip's perhaps less high; overwritten by the next
    """
    H, W, c = x.shape
    rows = x.new_empty((height + 2, W, fc1.out_features))
    rows[0] = 0  # above the map
    for top in range(0, H, height):
        bottom = min(top + height, H)
        first, last = (top + 1 if top else 0), min(bottom + 1, H)  # row `top` came with the strip before
        if first < last:
            new_rows = rows[first - top + 1 : last - top + 1].view(-1, fc1.out_features)
            torch.addmm(fc1.bias, norm(x[first:last]).view(-1, c), fc1.weight.t(), out=new_rows)
        if last == bottom:
            rows[bottom - top + 1] = 0  # below the map
        yield top, rows[: bottom - top + 2]
        if bottom < H:
            rows[:2] = rows[height : height + 2]


def _anew(x: Tensor, height: int, norm: nn.LayerNorm, fc1: nn.Linear) -> Iterator[tuple[int, Tensor]]:
    """The same where a convolution makes them, which cannot write beside rows that are there: shared rows twice."""
    H, above = len(x), x[:0]
    for top in range(0, H, height):
        bottom = min(top + height, H)
        normed = torch.cat((above, norm(x[top : bottom + 1])))
        rows = linear(normed, fc1.weight, fc1.bias)
        yield top, _filled_up(rows, above=top == 0, below=bottom == H)
        above = normed[-2:-1]  # since the rows themselves are overwritten by now


def _filled_up(rows: Tensor, *, above: bool, below: bool) -> Tensor:
    """Rows with one of zeros above or below them, at the edges of a map."""
    return F.pad(rows, (0, 0, 0, 0, int(above), int(below))) if above or below else rows


def project(x: Tensor, projection: nn.Linear, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The projection, cut into parts of these numbers of channels.

    One product for all of them, except for large maps in prediction: there each part is a product of its own, whose
    output needs no copy to be in one piece.

    Shape:
        - x: `(B, H, W, c)`
        - returns: `(B, H, W, size)` each
    """
    if in_pieces(x, x.numel()) and is_plain(projection):
        weights, biases = projection.weight.split(sizes), projection.bias.split(sizes)
        return tuple(linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
    return apply(projection, x).split(sizes, -1)


def apply(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer(x)`; a plain layer is computed as `ops.linear` does where that is faster."""
    if type(layer) is nn.Linear and is_convolution(x, layer.weight) and unobserved(layer):
        return linear(x, layer.weight, layer.bias)
    return layer(x)


def large_map(x: Tensor, *modules: nn.Module) -> bool:
    """Whether an attention made of these plain modules is better computed a strip of the map at a time."""
    _, H, W, c = x.shape
    return in_pieces(x, H * W * c) and is_plain(*modules)


def attend(
    x: Tensor,
    in_proj: nn.Linear,
    sizes: tuple[int, ...],
    attend_rows: Callable[..., tuple[Tensor, ...]],
    positional: Callable[[Tensor], Tensor],
    proj: nn.Linear,
    *,
    multiple: int = 1,
) -> Tensor:
    """An attention to keys that are known, with its projections and its positional branch, a strip of rows at a time.

    Args:
        x: the map.
        in_proj: makes what `attend_rows` takes, and after it what the positional branch takes.
        sizes: numbers of channels of these parts.
        attend_rows: takes the number of the picture, the first row and the parts of a strip, the last one left out;
            returns what tokens find, in parts that add up to `c` channels.
        positional: the convolution of the branch; `DepthwiseConv.convolve_rows`.
        proj: the projection of the sum.
        multiple: of how many rows strips are, except for the last.

    Shape:
        - x, returns: `(B, H, W, c)`
    """
    B, H, W, c = x.shape
    height = max(1, ATTENTION_STRIP_SIZE // (W * c * multiple)) * multiple
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    weights, biases = in_proj.weight.split(sizes), in_proj.bias.split(sizes)
    *of_parts, of_branch = zip(weights, biases, strict=True)
    for b in range(B):
        for top in range(0, H, height):
            bottom = min(top + height, H)
            parts = [linear(x[b : b + 1, top:bottom], *layer) for layer in of_parts]
            found = attend_rows(b, top, *parts)
            branch = linear(x[b, max(top - 1, 0) : bottom + 1], *of_branch)
            y = positional(_filled_up(branch, above=top == 0, below=bottom == H))
            for of_y, part in zip(y.split([part.shape[-1] for part in found], -1), found, strict=True):
                of_y += part[0]
            out[b, top:bottom] = linear(y, proj.weight, proj.bias)
    return out


def add_parts(x: Tensor, *parts: Tensor, made_by: nn.Module) -> Tensor:
    """The sum of a map and of another that comes in parts of its channels; large maps are added to where they are.

    Args:
        x: the map.
        parts: the other.
        made_by: what made the map; if a hook could have kept it, it is left alone.

    Shape:
        - x, returns: `(B, H, W, c)`
        - parts: `(B, H, W, size)` each, the sizes adding up to `c`
    """
    if in_pieces(x, x.numel()) and unobserved(*made_by.modules()):
        for of_x, part in zip(x.split([part.shape[-1] for part in parts], -1), parts, strict=True):
            of_x += part
        return x
    return torch.cat(parts, -1) + x
