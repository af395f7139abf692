"""The kernels of `triton.py`."""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# (the language of kernels is not quite Python.)

from __future__ import annotations

from ..tiles import gelu_parts, jit, tl


@jit
def measure_kernel(x, partial, L, blocks, BLOCK: tl.constexpr):
    """Mean, and sum of squared differences from it, of a stretch of a map."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    place = first + tl.arange(0, BLOCK)
    numbers = tl.load(x + image * L + place, mask=place < L, other=0.0).to(tl.float32)
    mean = tl.sum(numbers, 0) / tl.minimum(L - first, BLOCK)
    distance = tl.where(place < L, numbers - mean, 0.0)
    to = partial + (image * blocks + tl.program_id(0)) * 2
    tl.store(to, mean)
    tl.store(to + 1, tl.sum(distance * distance, 0))


@jit
def finish_kernel(partial, statistics, L, blocks, eps, BLOCK: tl.constexpr, STRETCH: tl.constexpr):
    """Mean and inverse deviation of a map, from those of its stretches."""
    image = tl.program_id(0).to(tl.int64)
    partial += image * blocks * 2
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, blocks, BLOCK):
        number = start + tl.arange(0, BLOCK)
        length = tl.minimum(L - number * STRETCH, STRETCH).to(tl.float32)
        mean = tl.load(partial + number * 2, mask=number < blocks, other=0.0)
        total += tl.where(number < blocks, mean * (length / L), 0.0)
    centre = tl.sum(total, 0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, blocks, BLOCK):
        number = start + tl.arange(0, BLOCK)
        length = tl.minimum(L - number * STRETCH, STRETCH).to(tl.float32)
        mean = tl.load(partial + number * 2, mask=number < blocks, other=0.0)
        squares = tl.load(partial + number * 2 + 1, mask=number < blocks, other=0.0)
        total += tl.where(number < blocks, squares / L + (mean - centre) * (mean - centre) * (length / L), 0.0)
    tl.store(statistics + image * 2, centre)
    tl.store(statistics + image * 2 + 1, 1.0 / tl.sqrt(tl.sum(total, 0) + eps))


@jit
def _tile(x, image, P, C, first, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Some tokens of a map in float32, where they are, and which places exist."""
    token, channels = first + tl.arange(0, BLOCK_P), tl.arange(0, BLOCK_C)
    at = image * P * C + token[:, None] * C + channels[None, :]
    mask = (token < P)[:, None] & (channels < C)[None, :]
    return tl.load(x + at, mask=mask, other=0.0).to(tl.float32), at, mask


@jit
def _of_channels(pointer, C, BLOCK_C: tl.constexpr):
    channels = tl.arange(0, BLOCK_C)
    return tl.load(pointer + channels, mask=channels < C, other=0.0).to(tl.float32)[None, :]


@jit
def normalize_kernel(
    x, statistics, weight, bias, out, P, C,
    GELU: tl.constexpr, EXACT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The norm with its statistics known, and GELU."""
    image = tl.program_id(1).to(tl.int64)
    numbers, at, mask = _tile(x, image, P, C, tl.program_id(0) * BLOCK_P, BLOCK_P, BLOCK_C)
    mean, scale = tl.load(statistics + image * 2), tl.load(statistics + image * 2 + 1)
    result = (numbers - mean) * scale * _of_channels(weight, C, BLOCK_C) + _of_channels(bias, C, BLOCK_C)
    if GELU:
        cdf, _density = gelu_parts(result, EXACT)
        result *= cdf
    tl.store(out + at, result.to(out.dtype.element_ty), mask=mask)


@jit
def _gradient_before_gelu(
    x, grad, statistics, weight, bias, image, P, C, first,
    GELU: tl.constexpr, EXACT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The normalised tokens, the gradient of what goes into GELU, where they are, and which places exist."""
    numbers, at, mask = _tile(x, image, P, C, first, BLOCK_P, BLOCK_C)
    mean, scale = tl.load(statistics + image * 2), tl.load(statistics + image * 2 + 1)
    normal = tl.where(mask, (numbers - mean) * scale, 0.0)
    g = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        y = normal * _of_channels(weight, C, BLOCK_C) + _of_channels(bias, C, BLOCK_C)
        cdf, density = gelu_parts(y, EXACT)
        g *= cdf + y * density
    return normal, g, at, mask


@jit
def sum_kernel(
    x, grad, statistics, weight, bias, partial, P, C, blocks, steps,
    GELU: tl.constexpr, EXACT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum over some tokens what the gradients of weight, bias and statistics are made of."""
    image = tl.program_id(1).to(tl.int64)
    of_weight = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    of_bias = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        first = (tl.program_id(0) * steps + step) * BLOCK_P
        normal, g, _at, _mask = _gradient_before_gelu(
            x, grad, statistics, weight, bias, image, P, C, first, GELU, EXACT, BLOCK_P, BLOCK_C
        )
        of_weight += normal * g
        of_bias += g
    channels = tl.arange(0, BLOCK_C)
    to = partial + (image * blocks + tl.program_id(0)) * 2 * C + channels
    tl.store(to, tl.sum(of_weight, 0), mask=channels < C)
    tl.store(to + C, tl.sum(of_bias, 0), mask=channels < C)


@jit
def gradient_kernel(
    x, grad, statistics, weight, bias, means, grad_x, P, C,
    GELU: tl.constexpr, EXACT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of the map. `means` are those of the weighed gradient with and without the normalised map."""
    image = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK_P
    normal, g, at, mask = _gradient_before_gelu(
        x, grad, statistics, weight, bias, image, P, C, first, GELU, EXACT, BLOCK_P, BLOCK_C
    )
    along, mean = tl.load(means + image * 2), tl.load(means + image * 2 + 1)
    scale = tl.load(statistics + image * 2 + 1)
    result = scale * (g * _of_channels(weight, C, BLOCK_C) - mean - normal * along)
    tl.store(grad_x + at, result.to(grad_x.dtype.element_ty), mask=mask)
