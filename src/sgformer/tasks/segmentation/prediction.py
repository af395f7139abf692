"""Predicted class map of an image: as numbers, as a file, and drawn."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...engine.files import write_atomically
from ...fonts import font_for, written
from ..images import ImageLike, read_image
from ..prediction import Prediction
from .masks import Colour

_PAPER, _TEXT = (255, 255, 255), (32, 32, 36)
# The longer side of a drawn image; more is of no use to eyes.
MAX_DRAWN = 1600


@dataclass(frozen=True, eq=False)
class SemanticMap(Prediction):
    """The class of each pixel.

    Attributes:
        indices: uint8 `(H, W)`, as large as the image; indices of ``classes``.
        classes: Class names in the order of the indices.
        palette: A colour for each class.
    """

    indices: NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]

    @property
    def shares(self) -> dict[str, float]:
        """Compute the share of the image that each class covers, the largest first; absent classes are left out."""
        counts = np.bincount(self.indices.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.indices.size) for i in order if counts[i]}

    def summary(self) -> str:
        """The largest classes on one line.

        Example:
            >>> SemanticMap(np.zeros((4, 4), np.uint8), ("sky", "sea"), ((0, 0, 255), (0, 99, 99))).summary()
            'sky 100.0%'
        """
        shares = self.shares
        shown = [f"{name} {share:.1%}" for name, share in list(shares.items())[:5]]
        more = len(shares) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def lines(self) -> list[tuple[str, float]]:
        """Classes and the share of the image that each covers."""
        return list(self.shares.items())

    def to_dict(self) -> dict[str, Any]:
        """For JSON: size and shares; the map itself is what `save` writes."""
        height, width = self.indices.shape
        return {"height": height, "width": width, "shares": {name: round(s, 6) for name, s in self.shares.items()}}

    def to_image(self) -> Image.Image:
        """The map as an image whose values are the indices, with the classes' colours as its palette."""
        image = Image.fromarray(self.indices)
        rest = [_PAPER] * (256 - len(self.palette))
        image.putpalette([value for colour in (*self.palette, *rest) for value in colour])
        return image

    def save(self, path: str | Path) -> None:
        """Write the map as a PNG file: its values are indices of classes, its palette their colours."""
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"a class map is written as PNG, which loses nothing; {path} must end in .png")
        content = io.BytesIO()
        self.to_image().save(content, "PNG", optimize=True)
        write_atomically(path, content.getvalue())

    def draw(self, image: ImageLike, *, opacity: float = 0.6) -> Image.Image:
        """The map over the image in the classes' colours, beside a legend with their shares.

        Args:
            image: The one that was predicted on. Very large ones are drawn smaller.
            opacity: Of the colours, 0 to 1.

        Raises:
            ValueError: The image is of another size than the map.
        """
        blended = self.paint(image, opacity=opacity)
        places = {name: self.classes.index(name) for name in self.shares}
        return _with_legend(
            blended, [(self.palette[places[n]], written(n, places[n]), s) for n, s in self.shares.items()]
        )

    def paint(self, image: ImageLike, *, opacity: float = 0.6, longest: int = MAX_DRAWN) -> Image.Image:
        """The map over the image, without a legend. What is of no class stays white.

        Args:
            image: The one that the map is of.
            opacity: Of the colours, 0 to 1.
            longest: What a longer side is shrunk to, in pixels.

        Raises:
            ValueError: The image is of another size than the map.
        """
        image = read_image(image)
        height, width = self.indices.shape
        if image.size != (width, height):
            raise ValueError(
                f"the map is {height}x{width} and the image {image.height}x{image.width} (height x width); "
                "draw it over the image that it was made from"
            )
        scale = min(1.0, longest / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        # In gray beneath, so that every colour is the map's.
        gray = image.resize(size, Image.Resampling.BOX).convert("L").convert("RGB")
        colours = self.to_image().resize(size, Image.Resampling.NEAREST).convert("RGB")
        return _outlined(Image.blend(gray, colours, opacity), np.asarray(colours))


def _outlined(image: Image.Image, colours: NDArray[np.uint8]) -> Image.Image:
    """Thin light lines where one class meets another."""
    edges = np.zeros(colours.shape[:2], bool)
    edges[:, 1:] |= (colours[:, 1:] != colours[:, :-1]).any(-1)
    edges[1:] |= (colours[1:] != colours[:-1]).any(-1)
    pixels = np.array(image)
    pixels[edges] = (pixels[edges].astype(np.uint16) + 2 * 255) // 3
    return Image.fromarray(pixels)


def _with_legend(image: Image.Image, rows: Sequence[tuple[Colour, str, float]]) -> Image.Image:
    """A column to the right: a patch of each colour, its class and share; as many as there is room for."""
    text = max(11, min(20, round(image.height / 24)))
    line, font = round(text * 1.6), font_for((name for _, name, _ in rows), text)
    room = max(1, (max(image.height, 6 * line) - line // 2) // line)
    lines = [(colour, f"{name}  {share:.1%}") for colour, name, share in rows[:room]]
    if len(rows) > room:
        lines[-1] = (_PAPER, f"and {len(rows) - room + 1} more")
    column = round(max(font.getlength(words) for _, words in lines)) + 3 * text
    height = max(image.height, len(lines) * line + line // 2)
    sheet = Image.new("RGB", (image.width + column, height), _PAPER)
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for i, (colour, words) in enumerate(lines):
        left, top = image.width + text // 2, line // 4 + i * line
        draw.rectangle((left, top + text // 5, left + text, top + text + text // 5), fill=colour)
        draw.text((left + 1.5 * text, top), words, _TEXT, font)
    return sheet
