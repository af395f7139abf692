"""The stem and the downsampling a strip of rows at a time, in inference on a CPU, where maps outgrow the cache.

Both are a chain of three convolutions, each with a norm over the whole image and the first two with a GELU. The norm
is what stands in the way of strips: it has to see all of a map before the first number leaves it. So a map is gone
over twice, once for its mean and variance, once to be normalised on the way into the next convolution. What the first
convolution makes is cheap, and is computed a second time rather than kept; of the second one's output there is one copy
in memory, where the plain way writes four.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..backbone.stem import Downsample, Stem
from ..ops import gelu_, linear
from ..ops.pieces import is_kept
from .conditions import inference_objection, layers_objection
from .fused import Instead
from .workers import each

# Numbers in the largest map of a strip, at most: 4 MB in float32.
STRIP_SIZE = 2**20

# From so many numbers in the first map of an image on, going over it twice is the faster way: 8 MB in float32.
MIN_SIZE = 2**21
# Where freed memory is kept, from so many in that of all images on: 128 MB.
MIN_SIZE_KEPT = 2**25

Rows = Callable[[int, int], Tensor]  # rows [top, bottom) of a map, `(1, c, bottom - top, W)`, anew at each call


def why_not(segment: Stem | Downsample, x: Tensor) -> str | None:
    """None, or a sentence."""
    if torch.compiler.is_compiling():  # first: to ask for the batch would hold the compiler to it
        return "torch.compile follows"
    conv = segment.conv1
    if not isinstance(conv, nn.Conv2d):
        return "conv1 was replaced or changed"
    size = x[0].numel() // conv.in_channels * conv.out_channels // math.prod(conv.stride) if len(x) else 0
    if size <= MIN_SIZE or (is_kept() and size * len(x) <= MIN_SIZE_KEPT):
        return "the map is small"
    return inference_objection(x, size) or layers_objection(segment)


def stem(stem: Stem, x: Tensor) -> Tensor:
    """Compute `Stem`."""
    return Instead(stem, embed=lambda x: downsample(stem, x)).plain(x)


def downsample(segment: Stem | Downsample, x: Tensor) -> Tensor:
    """Compute `Downsample`, and the chain of the same layers in `Stem`."""
    convs, norms = (tuple(getattr(segment, f"{kind}{i}") for i in (1, 2, 3)) for kind in ("conv", "norm"))
    return normed_convs(x.contiguous(memory_format=torch.channels_last), convs, norms)


def normed_convs(x: Tensor, convs: tuple[nn.Conv2d, ...], norms: tuple[nn.GroupNorm, ...]) -> Tensor:
    """`norm3(conv3(gelu(norm2(conv2(gelu(norm1(conv1(x))))))))`, image by image. No gradient.

    Images or maps are in channels-last order. The convolutions have odd kernels and are padded to keep the size but for
    their strides; the norms are over all channels and places, `GroupNorm(1, c)`.

    Shape:
        - x: `(B, c_in, H, W)`
        - returns: `(B, c_out, H', W')`, in channels-last order
    """
    out = None
    for b, image in enumerate(x.split(1)):
        height, width = x.shape[2:]
        rows = _rows_of(image)
        for conv, norm in zip(convs[:2], norms[:2], strict=True):
            made, (height, width) = _convolved(rows, conv, height, width)
            keep = conv is not convs[0] or len(list(_strips(height, width, conv))) == 1
            target = _new_map(1, conv, height, width, like=x) if keep else None
            scale, shift = _measure(made, conv, norm, height, width, target)
            rows = _normalised(_rows_of(target) if target is not None else made, scale, shift)
        made, (height, width) = _convolved(rows, convs[2], height, width)
        if out is None:
            out = _new_map(len(x), convs[2], height, width, like=x)
        scale, shift = _measure(made, convs[2], norms[2], height, width, out[b : b + 1])
        strips = ((out[b : b + 1, :, top:bottom], scale, shift) for top, bottom in _strips(height, width, convs[2]))
        each(_normalise_, strips)
    assert out is not None, "a batch without images never comes here"
    return out


def _rows_of(x: Tensor) -> Rows:
    return lambda top, bottom: x[:, :, top:bottom]


def _new_map(images: int, conv: nn.Conv2d, height: int, width: int, *, like: Tensor) -> Tensor:
    return like.new_empty((images, height, width, conv.out_channels)).permute(0, 3, 1, 2)


def _strips(height: int, width: int, conv: nn.Conv2d) -> Iterator[tuple[int, int]]:
    """Tops and bottoms of the strips of a map with the output channels of `conv`."""
    step = max(2, STRIP_SIZE // (width * conv.out_channels))
    return ((top, min(top + step, height)) for top in range(0, height, step))


def _convolved(rows: Rows, conv: nn.Conv2d, height: int, width: int) -> tuple[Rows, tuple[int, int]]:
    """The rows of a convolution's output, given those of its input and their (height, width); and its size."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    pad = kernel // 2

    def convolve(top: int, bottom: int) -> Tensor:
        first, last = top * stride - pad, (bottom - 1) * stride - pad + kernel
        x = rows(max(first, 0), min(last, height))
        if kernel == stride == conv.groups == 1:  # PyTorch has no fast 1x1 convolution for a thread alone
            return linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
        if first < 0 or last > height:
            x = F.pad(x, (0, 0, max(-first, 0), max(last - height, 0)))
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, (0, pad), groups=conv.groups)

    return convolve, tuple((n + 2 * pad - kernel) // stride + 1 for n in (height, width))  # pyright: ignore


def _measure(
    made: Rows, conv: nn.Conv2d, norm: nn.GroupNorm, height: int, width: int, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Measure what the norm multiplies each channel with and adds to it; the rows themselves go to `target`, if any."""

    def of_strip(top: int, bottom: int) -> tuple[float, float]:
        y = made(top, bottom)
        if target is not None:
            target[:, :, top:bottom] = y
        numbers = y.permute(0, 2, 3, 1).flatten().to(torch.promote_types(y.dtype, torch.float32))
        return numbers.sum().item(), numbers.dot(numbers).item()

    # Sums of strips in the map's precision, of the strips in float64.
    total, squares = map(sum, zip(*each(of_strip, _strips(height, width, conv)), strict=True))
    count = height * width * conv.out_channels
    mean = total / count
    deviation = (max(squares / count - mean * mean, 0) + norm.eps) ** 0.5
    dtype = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight.to(dtype) / deviation
    return scale, norm.bias.to(dtype) - scale * mean


def _normalised(rows: Rows, scale: Tensor, shift: Tensor) -> Rows:
    """Rows on their way into the next convolution: normalised, and through the GELU."""

    def normalised(top: int, bottom: int) -> Tensor:
        x = rows(top, bottom)
        y = torch.addcmul(shift, x.permute(0, 2, 3, 1).to(scale.dtype), scale)
        return gelu_(y).to(x.dtype).permute(0, 3, 1, 2)

    return normalised


def _normalise_(x: Tensor, scale: Tensor, shift: Tensor) -> None:
    x = x.permute(0, 2, 3, 1)
    if x.dtype == scale.dtype:
        torch.addcmul(shift, x, scale, out=x)
    else:
        x.copy_(torch.addcmul(shift, x.to(scale.dtype), scale))
