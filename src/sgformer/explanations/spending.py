"""Visualization of how keys are spent: group sizes of tokens, and keys by region."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from .render import ImageLike, as_image

# Three steps of viridis: their lightness tells them apart in gray, in print and to colour-blind eyes. From the band of
# the smallest groups to that of the largest.
BAND_COLOURS = ((253, 231, 37), (33, 145, 140), (68, 1, 84))
NUM_REGIONS = 54  # about so many: 6 by 9 of a photograph


def band_colours(group_size: ArrayLike) -> dict[int, tuple[int, int, int]]:
    """The colour of each group size in a map, from the smallest groups (lightest) to the largest (darkest).

    Example:
        >>> list(band_colours([[1, 2], [2, 1]]))
        [1, 2]
    """
    sizes = np.unique(np.asarray(group_size)).tolist()
    colours = (BAND_COLOURS[0], BAND_COLOURS[-1]) if len(sizes) == 2 else BAND_COLOURS
    return {size: colours[min(i, len(colours) - 1)] for i, size in enumerate(sizes)}


def spending_image(
    image: ImageLike, group_size: ArrayLike, *, opacity: float = 0.6, covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Lay over an image which tokens are merged in groups of what size.

    Every token is a square of the colour of its band (see `band_colours`) on the image in gray. Where squares are
    large enough for it, a white line runs around the tokens of the smallest groups.

    Args:
        image: RGB or gray, of any size.
        group_size: `(H, W)`, how many tokens are merged into one.
        opacity: of the colours, 0 to 1.
        covered: as for `overlay`.

    Returns:
        uint8 `(height, width, 3)`, as large as the image.

    Raises:
        ValueError: the map is not `(H, W)`.
    """
    sizes = as_map(group_size)
    image = as_image(image)
    rows, columns = token_of_pixels(sizes.shape, (image.height, image.width), covered)
    table = band_colours(sizes)
    colour = np.zeros((*sizes.shape, 3), np.float32)
    for size, rgb in table.items():
        colour[sizes == size] = rgb
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    out = gray * (1 - opacity) + colour[rows][:, columns] * opacity
    if image.width / sizes.shape[1] >= 6:
        finest = (sizes == min(table))[rows][:, columns]
        edge = np.zeros(finest.shape, bool)
        thick = max(1, round(image.width / sizes.shape[1] / 12))
        edge[thick:] |= finest[thick:] != finest[:-thick]
        edge[:, thick:] |= finest[:, thick:] != finest[:, :-thick]
        out[edge] = 255
    return out.round().astype(np.uint8)


def keys_by_region(
    keys: ArrayLike, regions: tuple[int, int], *, covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float64]:
    """Count the keys that each region of an image receives; a token that lies in two counts in both, by its area.

    Args:
        keys: `(H, W)`, how many keys each token accounts for.
        regions: rows and columns of equal parts into which the image is cut.
        covered: as for `overlay`; what lies beyond the edge counts for the last region.

    Returns:
        float64 `regions`; the sum is that of `keys`.

    Example:
        >>> keys_by_region(np.ones((4, 6)), (2, 2)).tolist()
        [[6.0, 6.0], [6.0, 6.0]]
    """
    values = as_map(keys).astype(np.float64)
    down, right = (overlap(n, parts, share) for n, parts, share in zip(values.shape, regions, covered, strict=True))
    return down @ values @ right.T


def keys_image(image: ImageLike, keys: ArrayLike, *, covered: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.uint8]:
    """Write into each region of an image how many keys it receives; the lighter, the more.

    Args:
        image: RGB or gray, of any size.
        keys: `(H, W)`, how many keys each token accounts for.
        covered: as for `overlay`.

    Returns:
        uint8 `(height, width, 3)`, as large as the image.
    """
    image = as_image(image)
    side = (image.width * image.height / NUM_REGIONS) ** 0.5
    regions = max(1, round(image.height / side)), max(1, round(image.width / side))
    counts = keys_by_region(keys, regions, covered=covered)
    top, left = (
        np.round(np.arange(n + 1) * length / n).astype(int)
        for n, length in zip(regions, (image.height, image.width), strict=True)
    )
    steps = np.array([BAND_COLOURS[-1], BAND_COLOURS[1], BAND_COLOURS[0]], np.float32)
    out = np.repeat(np.asarray(image.convert("L"), np.float32)[..., None], 3, 2)
    share = counts / max(float(counts.max()), 1e-12)
    for i, j in np.ndindex(*regions):
        colour = [np.interp(share[i, j], (0, 0.5, 1), channel) for channel in steps.T]
        part = out[top[i] : top[i + 1], left[j] : left[j + 1]]
        part[:] = part * 0.45 + np.array(colour) * 0.55
        part[:1], part[:, :1] = 30, 30
    drawn = Image.fromarray(out.round().astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(8, round(side * 0.34)))
    for i, j in np.ndindex(*regions):
        centre = float(left[j] + left[j + 1]) / 2, float(top[i] + top[i + 1]) / 2
        words = f"{counts[i, j]:.1f}" if counts[i, j] < 9.95 else f"{counts[i, j]:.0f}"
        width = max(1, round(side / 28))
        draw.text(centre, words, "white", font, anchor="mm", stroke_width=width, stroke_fill=(20, 20, 24))
    return np.asarray(drawn)


def describe_spending(group_size: ArrayLike, keys: ArrayLike) -> list[tuple[int, float, float]]:
    """For each group size, the smallest first: the size, its share of the tokens, and its number of keys."""
    sizes, values = as_map(group_size), np.asarray(keys, np.float64)
    return [(size, float((sizes == size).mean()), float(values[sizes == size].sum())) for size in band_colours(sizes)]


def as_map(values: ArrayLike) -> NDArray:
    """A map of tokens (H, W) as an array; another shape is a ValueError."""
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"a map of tokens is (H, W); got shape {array.shape}: pick one of the batch")
    return array


def token_of_pixels(
    tokens: tuple[int, ...], pixels: tuple[int, int], covered: tuple[float, float]
) -> tuple[NDArray, NDArray]:
    """For each row and each column of pixels the row or column of tokens that it lies in."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * num * share / n, num - 1).astype(int)
        for n, num, share in zip(pixels, tokens, covered, strict=True)
    )
    return rows, columns


def overlap(num_tokens: int, parts: int, share: float) -> NDArray[np.float64]:
    """`(parts, num_tokens)`: how much of each token lies in each part; columns sum to 1."""
    edges = np.linspace(0, num_tokens * share, parts + 1)
    edges[-1] = num_tokens
    token = np.arange(num_tokens)
    return np.clip(np.minimum(edges[1:, None], token + 1) - np.maximum(edges[:-1, None], token), 0, 1)
