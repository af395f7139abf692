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
def _taps(weight, channels, C, i: tl.constexpr):
    """A row of the kernel."""
    return _tap(weight, channels, C, i, 0), _tap(weight, channels, C, i, 1), _tap(weight, channels, C, i, 2)


@jit
def _row(x, at, row, shift, columns, H, W, x_h, x_w, is_channel):
    """A row of the strip, shifted by some columns; zeros outside of the map."""
    column = columns + shift
    rows = row + 0 * columns  # the interpreter wants masks of one shape
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
    k00, k01, k02 = _taps(weight, channels, C, 0)
    k10, k11, k12 = _taps(weight, channels, C, 1)
    k20, k21, k22 = _taps(weight, channels, C, 2)
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
        own = done + 0 * columns
        mask = ((own >= top) & (own < bottom) & (columns < W))[:, None] & is_channel
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
