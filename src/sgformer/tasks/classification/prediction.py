"""Prediction of a classifier for one image: classes and their probabilities, as numbers and drawn."""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from ...fonts import font_for, written
from .. import prediction
from ..images import ImageLike, read_image


@dataclass(frozen=True)
class Prediction(prediction.Prediction):
    """Prediction for one image: labels and their probabilities.

    Attributes:
        top: (class name, probability), the most probable first.
        numbers: The index of each of these classes.
    """

    top: tuple[tuple[str, float], ...]
    numbers: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    @property
    def score(self) -> float:
        """Its probability."""
        return self.top[0][1]

    def summary(self) -> str:
        """The classes and how probable they are, in a line."""
        return ", ".join(f"{label} {score:.1%}" for label, score in self.top)

    def lines(self) -> list[tuple[str, float]]:
        """Classes and their probabilities."""
        return list(self.top)

    def cells(self) -> dict[str, Any]:
        """Columns label, score, label2, score2 and so on."""
        numbered = ((place if place > 1 else "", one) for place, one in enumerate(self.top, 1))
        return {
            f"{name}{place}": value
            for place, (label, score) in numbered
            for name, value in (("label", label), ("score", round(score, 6)))
        }

    def draw(self, image: ImageLike) -> Image.Image:
        """The image with the summary in a strip below it."""
        image = read_image(image)
        size = max(12, image.width // 40)
        strip = Image.new("RGB", (image.width, image.height + 2 * size), "white")
        strip.paste(image)
        pairs = zip(self.top, self.numbers or range(len(self.top)), strict=True)
        words = ", ".join(f"{written(label, number)} {score:.1%}" for (label, score), number in pairs)
        place = size // 2, image.height + size // 2
        ImageDraw.Draw(strip).text(place, words, "black", font_for([words], size))
        return strip

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        top = [{"label": label, "score": round(score, 6)} for label, score in self.top]
        return {"label": self.label, "score": round(self.score, 6), "top": top}
