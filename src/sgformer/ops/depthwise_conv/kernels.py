"""The kernels of `triton.py`: programs that go down a strip of a map, row by row.

A row is read once, as itself and shifted by a column to either side, and adds to the three rows of the result that it
is a neighbour of. So each number is read three times and not nine, two of these from the cache.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# (the language of kernels is not quite Python.)

from __future__ import annotations

from ..tiles import gelu_parts, jit, tl

PLAIN, GELU, GRADIENT = 0, 1, 2  # what `convolve_kernel` makes of its sums


@jit
def _strip(segments, strips, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Image, first column and segment of rows of this program; and its columns and channels."""
    number = tl.program_id(0)
    columns = number // segments % strips * BLOCK_W + tl.arange(0, BLOCK_W)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return (number // (segments * strips)).to(tl.int64), number % segments, columns, channels


@jit
def _tap(weight, channels, C, i: tl.constexpr, j: tl.constexpr):
    return tl.load(weight + channels * 9 + (i * 3 + j), mask=channels < C, other=0.0).to(tl.float32)[None, :]


@jit
def _own(row, top, bottom, columns, W):
    """The columns of the strip, if the row is one of this program's own."""
    rows = row + 0 * columns  # the interpreter wants masks of one shape
    return (rows >= top) & (rows < bottom) & (columns < W)


@jit
def _row(x, at, row, shift, columns, H, W, x_h, x_w, is_channel):
    """A row of the strip, shifted by some columns; zeros outside of the map."""
    column = columns + shift
    rows = row + 0 * columns
    exists = (rows >= 0) & (rows < H) & (column >= 0) & (column < W)
    pointer = x + (row.to(tl.int64) * x_h + shift * x_w)
    return tl.load(pointer + at, mask=exists[:, None] & is_channel, other=0.0)


@jit
def convolve_kernel(
    x, weight, bias, grad, out, hidden, H, W, C, rows, segments, strips, x_b, x_h, x_w, g_b, g_h, g_w,
    RESIDUAL: tl.constexpr, MODE: tl.constexpr, EXACT: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The convolution, its GELU, or the gradient before GELU; the latter with GELU itself, in `hidden`."""
    image, segment, columns, channels = _strip(segments, strips, BLOCK_W, BLOCK_C)
    is_channel = (channels < C)[None, :]
    k00, k01, k02 = (
        _tap(weight, channels, C, 0, 0),
        _tap(weight, channels, C, 0, 1),
        _tap(weight, channels, C, 0, 2),
    )
    k10, k11, k12 = (
        _tap(weight, channels, C, 1, 0),
        _tap(weight, channels, C, 1, 1),
        _tap(weight, channels, C, 1, 2),
    )
    k20, k21, k22 = (
        _tap(weight, channels, C, 2, 0),
        _tap(weight, channels, C, 2, 1),
        _tap(weight, channels, C, 2, 2),
    )
    if RESIDUAL:
        k11 += 1.0
    constant = tl.load(bias + channels, mask=channels < C, other=0.0).to(tl.float32)[None, :]

    top = segment * rows
    bottom = tl.minimum(top + rows, H)
    x += image * x_b
    grad += image * g_b
    at = columns[:, None] * x_w + channels[None, :]
    to = columns[:, None] * C + channels[None, :]
    above = tl.zeros((BLOCK_W, BLOCK_C), tl.float32) + constant  # the sums of the row above, and of this one
    here = above
    left = _row(x, at, top - 1, -1, columns, H, W, x_h, x_w, is_channel)
    centre = _row(x, at, top - 1, 0, columns, H, W, x_h, x_w, is_channel)
    right = _row(x, at, top - 1, 1, columns, H, W, x_h, x_w, is_channel)
    for step in range(rows + 2):
        row = top - 1 + step
        a, b, c = left.to(tl.float32), centre.to(tl.float32), right.to(tl.float32)
        left = _row(x, at, row + 1, -1, columns, H, W, x_h, x_w, is_channel)
        centre = _row(x, at, row + 1, 0, columns, H, W, x_h, x_w, is_channel)
        right = _row(x, at, row + 1, 1, columns, H, W, x_h, x_w, is_channel)
        result = above + a * k20 + b * k21 + c * k22
        above = here + a * k10 + b * k11 + c * k12
        here = a * k00 + b * k01 + c * k02 + constant
        done = row - 1
        mask = _own(done, top, bottom, columns, W)[:, None] & is_channel
        offset = (image * H + done) * W * C
        if MODE > 0:
            cdf, density = gelu_parts(result, EXACT)
            if MODE == 1:
                result *= cdf
            else:
                tl.store(hidden + offset + to, (result * cdf).to(hidden.dtype.element_ty), mask=mask)
                of_grad = grad + (done.to(tl.int64) * g_h) + columns[:, None] * g_w + channels[None, :]
                g = tl.load(of_grad, mask=mask, other=0.0).to(tl.float32)
                result = g * (cdf + result * density)
        tl.store(out + offset + to, result.to(out.dtype.element_ty), mask=mask)


@jit
def gradient_kernel(
    grad, x, weight, grad_x, partial, H, W, C, rows, segments, strips, g_b, g_h, g_w, x_b, x_h, x_w,
    RESIDUAL: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of the map; and sums for those of the kernel (rows 0 to 8 of a program's) and the bias (row 9)."""
    image, segment, columns, channels = _strip(segments, strips, BLOCK_W, BLOCK_C)
    is_channel = (channels < C)[None, :]
    k00, k01, k02 = (
        _tap(weight, channels, C, 0, 0),
        _tap(weight, channels, C, 0, 1),
        _tap(weight, channels, C, 0, 2),
    )
    k10, k11, k12 = (
        _tap(weight, channels, C, 1, 0),
        _tap(weight, channels, C, 1, 1),
        _tap(weight, channels, C, 1, 2),
    )
    k20, k21, k22 = (
        _tap(weight, channels, C, 2, 0),
        _tap(weight, channels, C, 2, 1),
        _tap(weight, channels, C, 2, 2),
    )
    if RESIDUAL:
        k11 += 1.0

    top = segment * rows
    bottom = tl.minimum(top + rows, H)
    grad += image * g_b
    x += image * x_b
    of_grad = columns[:, None] * g_w + channels[None, :]
    of_x = columns[:, None] * x_w + channels[None, :]
    to = columns[:, None] * C + channels[None, :]
    zeros = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    above, here = zeros, zeros
    d00, d01, d02, d10, d11, d12, d20, d21, d22, d = (
        zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros,
    )  # fmt: skip
    x_above, x_here = zeros, zeros
    for step in range(rows + 2):
        row = top - 1 + step
        a = _row(grad, of_grad, row, -1, columns, H, W, g_h, g_w, is_channel).to(tl.float32)
        b = _row(grad, of_grad, row, 0, columns, H, W, g_h, g_w, is_channel).to(tl.float32)
        c = _row(grad, of_grad, row, 1, columns, H, W, g_h, g_w, is_channel).to(tl.float32)
        # Rows of the map count where they are this program's own, so that each counts once.
        below = tl.where(row + 1 < bottom, row + 1, H)
        x_below = _row(x, of_x, below, 0, columns, H, W, x_h, x_w, is_channel).to(tl.float32)
        result = above + a * k02 + b * k01 + c * k00
        above = here + a * k12 + b * k11 + c * k10
        here = a * k22 + b * k21 + c * k20
        d02 += x_above * a
        d01 += x_above * b
        d00 += x_above * c
        d12 += x_here * a
        d11 += x_here * b
        d10 += x_here * c
        d22 += x_below * a
        d21 += x_below * b
        d20 += x_below * c
        d += tl.where(_own(row, top, bottom, columns, W)[:, None], b, 0.0)
        x_above, x_here = x_here, x_below
        done = row - 1
        mask = _own(done, top, bottom, columns, W)[:, None] & is_channel
        tl.store(grad_x + (image * H + done) * W * C + to, result.to(grad_x.dtype.element_ty), mask=mask)
    partial += tl.program_id(0).to(tl.int64) * 10 * C + channels
    mask = channels < C
    tl.store(partial, tl.sum(d00, 0), mask=mask)
    tl.store(partial + C, tl.sum(d01, 0), mask=mask)
    tl.store(partial + 2 * C, tl.sum(d02, 0), mask=mask)
    tl.store(partial + 3 * C, tl.sum(d10, 0), mask=mask)
    tl.store(partial + 4 * C, tl.sum(d11, 0), mask=mask)
    tl.store(partial + 5 * C, tl.sum(d12, 0), mask=mask)
    tl.store(partial + 6 * C, tl.sum(d20, 0), mask=mask)
    tl.store(partial + 7 * C, tl.sum(d21, 0), mask=mask)
    tl.store(partial + 8 * C, tl.sum(d22, 0), mask=mask)
    tl.store(partial + 9 * C, tl.sum(d, 0), mask=mask)
