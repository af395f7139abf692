"""Significance maps as images: overlays at full resolution, and sheets to compare them.

Needs NumPy and Pillow alone. Colours run along inferno, whose lightness rises evenly: it reads the same in
gray, in print and to colour-blind eyes. Right and wrong differ in shape, not only in colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from ..fonts import font_for

ImageLike = Image.Image | NDArray[np.uint8]

# matplotlib's inferno (CC0) at every fifteenth of its 256 steps; the straight lines between stay within 2 %.
_STEPS = (
    "000004 0a0722 1e0c45 380962 510e6c 69166e 801f6c 982766 b0315b"
    " c63d4d d94d3d e9612b f47918 fa9407 fcb014 f8cd37 f2ea69 fcffa4"
)
_ANCHORS = np.array([tuple(bytes.fromhex(step)) for step in _STEPS.split()], np.float32)
INFERNO = np.stack([np.interp(np.arange(256), np.arange(18) * 15, channel) for channel in _ANCHORS.T], 1)

OPACITY = 0.85  # of the most significant places
TEXT_SIZE = 15  # of contact sheets, in pixels
_PAPER, _TEXT, _FAINT = (255, 255, 255), (32, 32, 36), (110, 110, 118)
_RIGHT, _WRONG = (0, 114, 90), (196, 62, 0)  # told apart by any eye, dark enough for a white sign

# The legend: words beside a bar of so many pixels.
_LEAST, _MOST, _BAR = "significance: least", "most (each map on its own scale)", 120


def overlay(
    image: ImageLike, significance: ArrayLike, *, covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Lay a significance map over the image it was measured on.

    The map is stretched to its own range, from black (least) over red to pale yellow (most), and covers the
    more the higher it is; beneath it the image turns gray, so that every colour is the map's. A map without
    differences leaves the gray image: noise is not blown up.

    Args:
        image: RGB or gray, of any size.
        significance: `(H, W)`, on a grid of any size.
        covered: share of the map's height and width that the image fills. It is below 1 where the last tokens
            reach over the image's edge.

    Returns:
        uint8 `(height, width, 3)`, as large as the image.

    Raises:
        ValueError: the map is not `(H, W)`, or not finite.

    Example:
        >>> overlay(np.zeros((64, 96, 3), np.uint8), np.random.rand(4, 6)).shape
        (64, 96, 3)
    """
    image = as_image(image)
    strength = _enlarge(_stretch(significance), (image.height, image.width), covered)
    gray = np.asarray(image.convert("L"), np.float32)[..., None]
    alpha = OPACITY * (0.25 + 0.75 * strength[..., None])
    blended = gray * (1 - alpha) + _colour(strength) * alpha if strength.any() else np.repeat(gray, 3, 2)
    return blended.round().astype(np.uint8)


def combine(
    maps: Sequence[ArrayLike], size: tuple[int, int], *, covered: Sequence[tuple[float, float]] | None = None
) -> NDArray[np.float32]:
    """Average maps `(H, W)` of unlike grids, each stretched to its own range first: every pair counts the same.

    The result is float32 of the `size`, (height, width), that the image has, 0 to 1. `covered` is for each map as for
    `overlay`; None where the image fills all of them.
    """
    if not len(maps):
        raise ValueError("there is no map to combine; the model reported none")
    covered = covered or [(1.0, 1.0)] * len(maps)
    return np.mean([_enlarge(_stretch(m), size, c) for m, c in zip(maps, covered, strict=True)], axis=0)


@dataclass(frozen=True)
class Cell:
    """Cell of a contact sheet: an image, enlarged or reduced to fit, with its caption."""

    image: ImageLike
    caption: str = ""  # each line is cut to the cell's width
    mark: bool | None = None  # True draws a check in a disc before the caption, False a cross in a square


def contact_sheet(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    headings: Sequence[str] = (),
    legend: bool = False,
    note: str = "",
    cell_size: int = 176,
) -> Image.Image:
    """Draw images in rows, which may differ in length, with captions.

    The title is a line above everything, headings are above each column, the legend explains the colours of
    significance, and the note is at the very bottom. `cell_size` is the longer side of every image, in pixels.

    Example:
        >>> gray = np.full((48, 64, 3), 128, np.uint8)
        >>> contact_sheet([[Cell(gray, "a cat", mark=True), Cell(gray)]]).mode
        'RGB'
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one cell")
    gap, line = max(8, TEXT_SIZE * 2 // 3), round(TEXT_SIZE * 1.4)
    words = [title or "", note or "", *headings, *(cell.caption for row in rows for cell in row)]
    font, large = font_for(words, TEXT_SIZE), font_for(words, round(TEXT_SIZE * 1.35))
    images = [[_fit(as_image(cell.image), cell_size) for cell in row] for row in rows]
    widths = [max(row[i].width for row in images if i < len(row)) for i in range(columns)]
    widths = [max(width, round(TEXT_SIZE * 6.5)) for width in widths]  # room for a few words
    heights = [max(image.height for image in row) for row in images]
    texts = [line * max(len(cell.caption.splitlines()) for cell in row) for row in rows]

    head = (round(line * 1.6) if title else 0) + (line if headings else 0)
    foot = (2 * line if legend else 0) + (round(line * 1.4) if note else 0)
    width = sum(widths) + gap * (columns + 1)
    if title:
        width = max(width, math.ceil(large.getlength(title)) + 2 * gap)
    if legend:
        width = max(width, _legend_width(font) + 2 * gap)
    if note:
        width = max(width, math.ceil(font.getlength(note)) + 2 * gap)
    height = head + foot + gap + sum(h + t + gap for h, t in zip(heights, texts, strict=True))
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)

    if title:
        draw.text((gap, gap), title, _TEXT, large)
    left = gap
    for heading, column in zip(headings, widths, strict=False):
        draw.text((left, head - line + gap // 2), _cut(heading, font, column), _FAINT, font)
        left += column + gap
    top = head + gap
    for row, fitted, tallest, text in zip(rows, images, heights, texts, strict=True):
        left = gap
        for cell, image, column in zip(row, fitted, widths, strict=False):
            sheet.paste(image, (left, top))
            below, indent = top + tallest + line // 5, 0
            if cell.mark is not None:
                sign = _sign(cell.mark, TEXT_SIZE)
                sheet.paste(sign, (left, below + (line - TEXT_SIZE) // 4), sign)
                indent = round(TEXT_SIZE * 1.4)
            for words in cell.caption.splitlines():
                draw.text((left + indent, below), _cut(words, font, column - indent), _TEXT, font)
                below += line
            left += column + gap
        top += tallest + text + gap
    if legend:
        _legend(sheet, draw, (gap, top + line // 3), font, line)
        top += round(line * 1.6)
    if note:
        draw.text((gap, top), note, _FAINT, font)
    return sheet


def significance_sheet(
    first: Sequence[Cell],
    maps: Sequence[NDArray[np.float32]],
    size: tuple[int, int],
    *,
    title: str,
    cell_size: int = 144,
) -> Image.Image:
    """Draw a row for each image: the image, all pairs of blocks together, and the last pair of each stage.

    Maps are `(n, H, W)` for each pair, whose grid shrinks from stage to stage; `size` is the (height, width) that the
    model saw.
    """
    covered = covered_shares(maps, size)
    # The last map before the grid shrinks is the stage's last pair.
    last = [i for i, m in enumerate(maps) if i + 1 == len(maps) or maps[i + 1].shape != m.shape]
    rows = []
    for n, cell in enumerate(first):
        image = as_image(cell.image)
        together = combine([m[n] for m in maps], (image.height, image.width), covered=covered)
        drawn = [overlay(image, together), *(overlay(image, maps[i][n], covered=covered[i]) for i in last)]
        rows.append([cell, *map(Cell, drawn)])
    headings = ["image", "all pairs", *(f"stage {k + 1}" for k in range(len(last)))]
    return contact_sheet(rows, title=title, headings=headings, legend=True, cell_size=cell_size)


def covered_shares(maps: Sequence[NDArray[np.float32]], size: tuple[int, int]) -> list[tuple[float, float]]:
    """For each map `(n, H, W)` of a model the share of its height and width that images of this size fill."""
    shares, stride = [], 4
    for i, m in enumerate(maps):
        if i and maps[i - 1].shape != m.shape:
            stride *= 2  # a stage has half the tokens a side of the one before
        shares.append(covered_share(size, (m.shape[1], m.shape[2]), stride))
    return shares


def covered_share(size: tuple[int, int], tokens: tuple[int, int], stride: int) -> tuple[float, float]:
    """The share of a map's height and width that an image fills: the last tokens, of `stride` pixels, may reach beyond.

    Example:
        >>> covered_share((36, 128), (3, 8), 16)
        (0.75, 1.0)
    """
    height, width = (min(1.0, pixels / (n * stride)) for pixels, n in zip(size, tokens, strict=True))
    return height, width


def _stretch(significance: ArrayLike) -> NDArray[np.float32]:
    """Bring a map to 0..1 between its first and last per cent; all zero where it hardly differs."""
    values = np.asarray(significance, np.float32)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a significance map is (H, W); got shape {values.shape}: pick one of the batch")
    if not np.isfinite(values).all():
        raise ValueError("the significance map holds NaN or infinite values; look at the weights or the image")
    low, high = np.percentile(values, (1, 99))
    if high - low <= 1e-3 * max(abs(float(high)), 1e-12):  # less than a per cent of the tokens stand out
        low, high = values.min(), values.max()
    if high - low <= 1e-3 * max(abs(float(high)), 1e-12):
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def _enlarge(
    strength: NDArray[np.float32], size: tuple[int, int], covered: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float32]:
    """Resample the covered part smoothly to `size` (height, width), within 0..1."""
    height, width = size
    box = (0, 0, strength.shape[1] * covered[1], strength.shape[0] * covered[0])
    large = Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.clip(np.asarray(large), 0, 1)


def _colour(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    return INFERNO[(strength * 255).round().astype(np.uint8)].astype(np.float32)


def as_image(image: ImageLike) -> Image.Image:
    """An image, or an array of one, as RGB."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    return image.convert("RGB")


def _fit(image: Image.Image, cell_size: int) -> Image.Image:
    scale = cell_size / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _cut(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words.rstrip() + "…"


def _sign(right: bool, size: int) -> Image.Image:
    """A white check in a disc, or a white cross in a square; drawn large and reduced for smooth edges."""
    large = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    if right:
        draw.ellipse((0, 0, 63, 63), _RIGHT)
        draw.line(((16, 33), (28, 45), (48, 20)), "white", 9, joint="curve")
    else:
        draw.rounded_rectangle((2, 2, 61, 61), 8, _WRONG)
        draw.line(((19, 19), (44, 44)), "white", 9)
        draw.line(((44, 19), (19, 44)), "white", 9)
    return large.resize((size, size), Image.Resampling.LANCZOS)


def _legend(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    line: int,
) -> None:
    left, top = place
    draw.text((left, top), _LEAST, _FAINT, font)
    left += math.ceil(font.getlength(_LEAST)) + 8
    bar = np.repeat(_colour(np.linspace(0, 1, _BAR, dtype=np.float32))[None], max(6, line * 2 // 3), 0)
    sheet.paste(Image.fromarray(bar.round().astype(np.uint8)), (left, top + line // 6))
    draw.text((left + _BAR + 8, top), _MOST, _FAINT, font)


def _legend_width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return math.ceil(font.getlength(_LEAST)) + 8 + _BAR + 8 + math.ceil(font.getlength(_MOST))
