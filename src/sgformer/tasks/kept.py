"""Base classes of all trained models, whatever their task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from PIL import Image
from torch import nn

from ..engine import weights
from .images import ImageLike


class Prediction(Protocol):
    """Prediction for one image."""

    def summary(self) -> str:
        """A line for people."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        ...

    def draw(self, image: ImageLike) -> Image.Image:
        """The image with the prediction in it."""
        ...


class BaseReport:
    """Report on a model's quality: what the reports of all tasks have."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        raise NotImplementedError

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """For people: column heads and rows."""
        raise NotImplementedError

    def to_lines(self) -> list[str]:
        """Return the lines below the table."""
        return []

    def precision_recall(self) -> Any:
        """Return precision at 101 recalls from 0 to 1, by name of a figure and of a curve; None without such."""
        return None


class Kept(nn.Module):
    """The model that people keep of a training run: it predicts, is saved, and needs nothing that training needs.

    Attributes:
        task: Which task reads its weights file.
        name: The backbone's name in timm.
        kwargs: More arguments of the backbone.
        classes: Class names in the order of the outputs.
        preprocessing: How an image becomes a tensor, a dataclass.
        metadata: What the weights file says that it was read from; empty without one.
        palette: A colour for each class, where colours mean classes.
    """

    task: ClassVar[str]
    name: str
    kwargs: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Any
    metadata: Mapping[str, Any] = {}
    palette: tuple[tuple[int, int, int], ...] = ()

    def name_of(self, index: int) -> str:
        """Return the name of a class for people."""
        return self.classes[index]

    @property
    def saved(self) -> nn.Module:
        """The part whose tensors are in the weights file."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return the metadata of the weights file beside name, arguments, classes and preprocessing."""
        raise NotImplementedError

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """A model as a weights file's metadata describe it, with any values."""
        raise NotImplementedError

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Say what is in an image, a `Prediction`; of a list of images, in a list of them."""
        raise NotImplementedError

    def save(
        self,
        path: str | Path,
        *,
        recipe: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        half: bool = False,
    ) -> None:
        """Write everything needed to use the model again to one safetensors file.

        Args:
            path: Where to; an existing file is replaced atomically.
            recipe: How it was trained, for people.
            metrics: How good it is, for people.
            half: Whether to keep the numbers in half precision (float16), in half the space.
        """
        metadata = {
            "task": self.task,
            "model": {"name": self.name, "kwargs": self.kwargs},
            "classes": self.classes,
            **self.describe(),
            "preprocessing": asdict(self.preprocessing),
            "recipe": recipe or {},
            "metrics": metrics or {},
        }
        weights.save(path, self.saved.state_dict(), metadata, half=half)

    @classmethod
    def from_weights(cls, path: str | Path) -> Self:
        """Read back what `save` wrote, in evaluation mode.

        Args:
            path: A weights file, or a run folder for its best.

        Raises:
            WeightsError: The file is damaged, is for something else, or its names and shapes do not fit.
        """
        return restore(path, lambda task: cls if task == cls.task else None)


def restore(path: str | Path, kind: Any) -> Any:
    """The model in a weights file, which is opened once, in evaluation mode.

    Args:
        path: A weights file, or a run folder for its best.
        kind: Gives the class of `Kept` of a task's name, or None.

    Raises:
        WeightsError: The file is damaged, is for something else, or its names and shapes do not fit.
    """

    def make(metadata: dict[str, Any]) -> Kept:
        found = kind(metadata["task"])
        if found is None:
            raise weights.WeightsError(
                f"{path} is for the task {metadata['task']!r}, which is not known here; use sgformer.load, or update "
                "sgformer"
            )
        model = found.from_metadata(metadata)
        model.metadata = metadata
        return model

    return weights.restore(path, make, part=lambda model: model.saved)
