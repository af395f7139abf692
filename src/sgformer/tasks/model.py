"""Trained models of any task: they predict, are saved and loaded, and need no training library."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import InterpolationMode

from ..engine import weights
from ..engine.modes import evaluating
from .images import ImageLike


@runtime_checkable
class Guided(Protocol):
    """A backbone that measures significance and spends its keys by it."""

    token_budget: int | None

    def set_token_budget(self, token_budget: int | None) -> None:
        """Change the most keys of an attention."""
        ...

    def forward_significance(self, x: Tensor) -> list[Tensor]:
        """Significance maps (B, H, W) of each pair of blocks."""
        ...

    def forward_spending(self, x: Tensor) -> list[Any]:
        """Spending of keys at each pair of blocks."""
        ...


class Kept(nn.Module):
    """A trained model, kept of a run: it predicts, is saved and loaded, and needs no training library.

    ``name`` and ``kwargs`` are timm's, of the backbone; ``classes`` are names in the order of the outputs, none for a
    task without classes; ``preprocessing``, from an image to a tensor, is a dataclass over `images.ReadsRGB`, stored
    with the weights.
    """

    task: ClassVar[str]  # which reads its weights file
    measure: ClassVar[str]  # what the numbers of a prediction's `lines` are
    settings: ClassVar[frozenset[str]] = frozenset()  # what `predict` takes beside images
    files: ClassVar[frozenset[str]] = frozenset()  # of its own kind that `sgformer predict` can write
    in_browsers: ClassVar[bool] = False  # whether the page of `sgformer export --web` can show what it predicts
    has_pyramid: ClassVar[bool] = False  # whether the feature pyramid can be exported without heads
    backbone: Any  # timm's model, or a pyramid around it
    metadata: Mapping[str, Any] = {}  # what the weights file says that it was read from; empty without one
    palette: tuple[tuple[int, int, int], ...] = ()  # a colour for each class, where colours mean classes
    mean: Tensor  # that of the preprocessing, times its white, as all pixels are normalized here
    std: Tensor

    def __init__(
        self, name: str, *, classes: Sequence[str], preprocessing: Any, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.name, self.kwargs, self.classes = name, dict(kwargs or {}), tuple(classes)
        self.preprocessing = preprocessing
        for part, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            values = preprocessing.full * torch.tensor(values)[:, None, None]
            self.register_buffer(part, values, persistent=False)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize pixels (..., channels, height, width) as they were read."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std

    def prepare(self, image: Any, *, size: int | None = None) -> Tensor:
        """Prepare an image that was read as the backbone takes it, resized but whole: (1, channels, height, width).

        ``size`` is the shorter side in pixels, 32 or more; None: that at which the model evaluates.
        """
        if size is not None and size < 32:
            raise ValueError(f"size {size} is too small: models of stride 32 need at least 32")
        seen = [size] if size else list(self.preprocessing.size(F.get_size(image)))
        # One number is the shorter side; PIL's images are taken as well.
        resized: Any = F.resize(image, seen, InterpolationMode(self.preprocessing.interpolation))  # pyright: ignore
        pixels = resized if isinstance(resized, Tensor) else F.pil_to_tensor(resized)
        return self.normalize(pixels.to(self.mean.device))[None]

    @property
    def guided(self) -> Guided | None:
        """The SG-Former within, which measures significance; None where there is none."""
        return next((part for part in self.modules() if isinstance(part, Guided)), None)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, without gradients; afterwards each part is in the mode that it was in."""
        with evaluating(self), torch.inference_mode():
            yield

    def of_each(self, images: Any, compute: Callable[[Sequence[ImageLike]], Any]) -> Any:
        """Compute in evaluation mode for one image or a list of images."""
        several = isinstance(images, list | tuple)
        with self.evaluating():
            found = compute(images if several else [images])
        return found if several else found[0]

    def call_classes(self, names: Mapping[str, str]) -> None:
        """Set display names of classes, for tasks whose classes may have such; else ValueError."""
        raise ValueError(f"display names are for classifiers; these weights are for {self.task}: leave them out")

    def name_of(self, index: int) -> str:
        """Display name of a class."""
        return self.classes[index]

    @property
    def saved(self) -> nn.Module:
        """The part whose tensors are in the weights file."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return the metadata of the weights file beside name, arguments, classes and preprocessing, for JSON."""
        raise NotImplementedError

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Build the model that a weights file's metadata describe, with initial weights."""
        make: Any = cls
        return make(
            metadata["model"]["name"],
            classes=metadata["classes"],
            kwargs=metadata["model"]["kwargs"],
            **cls.arguments_of(metadata),
        )

    @classmethod
    def arguments_of(cls, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor beside name, classes and kwargs, the preprocessing among them.

        ``metadata`` are what `describe` gave and what `save` adds. The constructor builds without a download.
        """
        raise NotImplementedError

    # Each task has its own settings, which a common signature cannot name. It takes one image, or a list and returns a
    # list in its order, of any size, also as `preprocessing.read` gives them; in evaluation mode (`of_each`). What it
    # says of an image does not depend on the others.
    predict: Callable[..., Any]

    def follow(self, key: str, value: Any) -> None:
        """Evaluate by another value of a key of the recipe that is none of data; ValueError where none is followed."""
        raise ValueError(
            f"--{key} is not followed here: evaluation takes keys of data; all else is the weights' own: leave it out"
        )

    def in_coco(self, paths: Sequence[Path], annotations: Path | None) -> Callable[[Sequence[Any]], Any]:
        """Prepare what is written to ``coco`` in `files`: a function from the results of all images to JSON.

        A result is an image's name (``image``) and what `Prediction.to_dict` gives, or ``error``. ``annotations`` is a
        file in COCO's format that lists the images, whose ids are then taken. ValueError where the annotations lack an
        image or a class.
        """
        raise NotImplementedError

    def start_from(self, path: str | Path) -> Any:
        """Take over trained weights: the backbone, and the head where it fits.

        WeightsError where the file is damaged, or the backbones differ.
        """
        raise NotImplementedError

    def embed(self, images: Any, *, batch_size: int = 32) -> Tensor:
        """Pooled features of images, for tasks that have such; else ValueError."""
        raise ValueError(f"these weights are for {self.task}; features are those of a classifier")

    def save(
        self,
        path: str | Path,
        *,
        recipe: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        half: bool = False,
    ) -> None:
        """Write everything needed to use the model again to one safetensors file, which is replaced atomically.

        ``recipe`` and ``metrics``, how it was trained and how good it is, are for the record. With ``half`` numbers are
        kept in half precision (float16), in half the space.
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
        """Read back what `save` wrote, from a weights file or a run folder's best, in evaluation mode.

        WeightsError where the file is damaged, is for something else, or its names and shapes do not fit.
        """
        return restore(path, lambda task: cls if task == cls.task else None)


def restore(path: str | Path, kind: Callable[[str], type[Kept] | None]) -> Any:
    """The model in a weights file, or in a run folder's best, which is opened once; in evaluation mode.

    ``kind`` gives the class for a task's name, or None. WeightsError where the file is damaged, is for something else,
    or its names and shapes do not fit.
    """
    path = weights.locate(path)
    tensors, metadata = weights.read(path)
    try:
        found = kind(task := metadata["task"])
        if found is None:
            raise weights.WeightsError(
                f"{path} is for the task {task!r}, and weights of another are asked for; name those, or in Python use "
                "sgformer.load; a task that is not known may need an update"
            )
        model = found.from_metadata(metadata)
    except (KeyError, TypeError) as error:
        raise weights.WeightsError(f"the metadata of {path} is damaged or of another task ({error!r})") from error
    model.metadata = metadata
    weights.fill(model.saved, tensors, source=path)
    return model.eval()
