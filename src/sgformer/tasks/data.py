"""Images of a data set as batches, whatever the task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from .balance import ClassWeights, class_weights, describe, draw_weights, drawn_evenly
from .bands import Bands, measured
from .errors import DataError
from .folders import Split
from .loading import Unreadable, collate_readable, make_loader, spread
from .options import DataOptions


class Data(LightningDataModule, ABC):
    """The images of a task as batches. A subclass adds `dataset`, `contents` and `as_image`.

    ``splits`` are those that are read, ``seed`` is the seed of the order and the augmentation of training images.
    ``preprocessing`` is how images are prepared for the model; None where the model does it.
    """

    options: Any
    classes: tuple[str, ...]  # what the class indices mean; empty for a task without classes
    between: ClassVar[str] = "; "  # notes, where all is said in one line

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Any = None,
        *,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.preprocessing, self.splits, self.seed = options, preprocessing, splits, seed
        self.notes: list[str] = []  # what lies there and is not used, and what else is unusual, a sentence each
        self.weights: list[float] | None = None  # how often each training image is drawn; None: equally often

    @abstractmethod
    def dataset(self, split: Split) -> Any:
        """The images of a split: augmented for train, always the same for val.

        A sample is an image, its pixels as they were read, and a target; or `Unreadable`. An index is a number, or in
        training what `sampling.seeded` takes apart.
        """

    @abstractmethod
    def contents(self, images: str) -> str:
        """Summarize the data in one line: classes, so many ``images``, and what else there is."""

    @property
    def lengths(self) -> list[int]:
        """Numbers of images in the splits that are read, training first; of shards, those of an epoch of training."""
        return [len(self.dataset(split)) for split in self.splits]

    @property
    def num_images(self) -> int:
        """Training and validation together."""
        return sum(self.lengths)

    def __str__(self) -> str:
        return self.between.join([self._counted(), *self.notes])

    def is_of(self, told: str) -> bool:
        """Whether data of which this was told are as many images, objects and so on; notes may differ."""
        return f"{told}{self.between}".startswith(f"{self._counted()}{self.between}")

    def _counted(self) -> str:
        return self.contents(f"{' + '.join(map(str, self.lengths))} images")

    @abstractmethod
    def as_image(self, sample: Any) -> Any:
        """Take the image of a validation sample, as the preprocessing reads images; all have one size."""

    def likeness(self) -> Sequence[float] | None:
        """A number for each training image, by which similar images share a batch; None: no such grouping."""
        return None

    def collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Choose what makes a batch of samples."""
        return collate_readable

    def files(self, split: Split) -> list[Any]:
        """Images of a split as they are named, to be measured."""
        raise NotImplementedError

    def check_bands(self, *sources: str) -> None:
        """Raise DataError where the model takes other bands than RGB, and images come from none of these sources."""
        if isinstance(self.preprocessing, Bands) and self.options.source not in sources:
            number = len(self.preprocessing.mean)
            raise DataError(
                f"data.source {self.options.source} gives RGB, and model.in_chans is {number}: set "
                f"--data.source {' or '.join(sources)}"
            )

    def measure(self) -> Any:
        """The preprocessing, whose mean and deviation of other bands than RGB come from the training images.

        An image that has other bands, or another type of values, than most is a DataError.
        """
        if isinstance(self.preprocessing, Bands):
            train, val = self.files("train"), self.files("val")
            self.preprocessing, note = measured(self.preprocessing, self.options.bands, train, val)
            self.notes.append(note)
        return self.preprocessing

    def class_counts(self) -> NDArray[np.int64]:
        """Training images, or pixels, of each class; DataError where they are not known."""
        raise NotImplementedError

    def draw_evenly(self, holds: NDArray[Any]) -> None:
        """Draw training images so that all classes come equally often (`draw_weights`), and note how often that is."""
        self.weights = weights = draw_weights(holds).tolist()
        self.notes.append(drawn_evenly(self.classes, holds, weights))

    def loss_weights(self, wanted: ClassWeights) -> list[float] | None:
        """Weights of the classes in the loss, which are noted; None: all the same."""
        counts = self.class_counts() if wanted == "balanced" else np.zeros(len(self.classes))
        weights = class_weights(wanted, self.classes, counts)
        if weights:
            self.notes.append(describe("loss weights", dict(zip(self.classes, weights, strict=True))))
        return weights

    def examples(self, num: int = 6) -> list[Any]:
        """A few validation images of one size, by which a model is watched."""
        dataset = self.dataset("val")
        samples = [dataset[i] for i in spread(len(dataset), num)]
        return [self.as_image(sample) for sample in samples if not isinstance(sample, Unreadable)]

    def train_dataloader(self) -> DataLoader[Any]:
        """Mixed order; a last batch that is not full is left out."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image once, in order."""
        return self._loader("val")

    def _loader(self, split: Split) -> DataLoader[Any]:
        train = split == "train"
        return make_loader(
            self.dataset(split),
            split,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=self.seed,
            trainer=self.trainer,
            collate=self.collate(split),
            likeness=self.likeness() if train else None,
            weights=self.weights if train else None,
        )
