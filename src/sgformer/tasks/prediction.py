"""Predictions for an image, whatever the task."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from PIL import Image

from .images import ImageLike


class Prediction(ABC):
    """Prediction for one image."""

    @abstractmethod
    def summary(self) -> str:
        """Summarize it in one line."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""

    @abstractmethod
    def lines(self) -> list[tuple[str, float]]:
        """Classes and their probabilities or shares, 0 to 1, the largest first; empty where there are no classes."""

    @abstractmethod
    def draw(self, image: ImageLike) -> Image.Image:
        """Draw the prediction into the image, in RGB; it may be shrunk or enlarged, not stretched.

        Raises:
            ValueError: The image has another size than the one that was predicted, and places matter.
        """

    def save(self, path: str | Path) -> None:
        """Write what `sgformer predict --maps` asks for to a PNG file, where the model's `files` has ``maps``."""
        raise NotImplementedError

    def cells(self) -> dict[str, Any]:
        """Columns of a table, and what stands in them."""
        return {"prediction": self.summary()}

    def paint(self, image: ImageLike) -> Image.Image | None:
        """Draw what has a place in the image, without a legend; None where nothing has one."""
        return None

    def outline(self, image: ImageLike) -> Image.Image | None:
        """Draw boxes alone, over another image of the same size; None for a task without boxes."""
        return None
