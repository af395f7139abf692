"""Labelled images as batches."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...engine import devices
from ..bands import Bands
from ..data import Data
from ..errors import DataError, listed
from ..folders import Split, describe_leftovers, find_copies, leftovers
from ..images import CLOSED, ImageError, ImageLike, Preprocessing, find_odd, read_image
from ..loading import Samples, epoch_to_come, share, suitable_workers
from ..text import doubtful_names, enumerate_names, note_mirrored, nothing, read_plain_names
from . import sources
from .augment import image_transform
from .options import DataOptions
from .shards import Shards, find_shards, note_shards

LIKE = "train/<class>/ and val/<class>/"
# Keys that name files with labels.
TABLES = ("val_labels", "train_list", "val_list")


class Images:
    """Prepared images and their classes, by number; ``shorter_side`` is what the transform needs, see `read_image`."""

    def __init__(
        self, items: sources.Items, preprocessing: Preprocessing, transform: Callable[[Any], Tensor], shorter_side: int
    ) -> None:
        self.items, self.preprocessing = items, preprocessing
        self.transform, self.shorter_side = transform, shorter_side

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image, label = self.items[number]
        return self.transform(self.preprocessing.read(image, shorter_side=self.shorter_side)), label


class PreparedData(Data):
    """Images prepared by timm's transforms: what classification and pretraining share.

    The preprocessing's image size is that of validation.
    """

    options: Any
    labelled = True  # whether images need labels

    def as_image(self, sample: Any) -> Any:
        """Take an image as the model sees it, the first of several views."""
        pixels = sample[0] if sample[0].ndim == 3 else sample[0][0]
        return pixels if isinstance(self.preprocessing, Bands) else self.preprocessing.show(pixels)

    def examples(self, num: int = 6) -> list[Any]:
        """A few validation images as a model sees them; of shards none."""
        return [] if self.options.source == "shards" else super().examples(num)

    def find(self, split: Split, known: tuple[str, ...] | None = None) -> sources.Samples:
        """Find the images of a split, wherever they are but in shards; ``known`` classes are those of another split.

        DataError where there are none, or their labels are not as they must be.
        """
        options, suffixes = self.options, self.preprocessing.suffixes
        match options.source:
            case "digit_scenes":
                return sources.scenes(options.scenes.make(split))
            case "list":
                table = options.train_list if split == "train" else options.val_list
                root = Path(options.root).expanduser() if options.root else None
                return sources.listing(
                    table, split, root, known, max_missing=options.max_unreadable, labelled=self.labelled
                )
            case "imagenet":
                return sources.imagenet(options.folder(LIKE), split, options.val_labels, suffixes)
            case "labelme":
                return sources.flags(options.folder(LIKE), split, known, suffixes)
            case "npz":
                return sources.packed(options.folder(LIKE), split)
            case "torchvision":
                root = Path(options.root or "data").expanduser()
                return sources.torchvision_set(options.dataset, root, split, download=options.download)
            case _:
                return sources.folders(options.folder(LIKE), split, suffixes)

    def odd(self, paths: Iterable[Any]) -> list[str]:
        """Note what of files is not read as it stands in them; too many that cannot be read are a DataError."""
        files = [*paths]
        found = {} if isinstance(self.preprocessing, Bands) else find_odd(files)
        closed = found.get(CLOSED, [])
        if "train" in self.splits and len(closed) > self.options.max_unreadable * len(files):
            first, remedy = str(closed[0]), "convert or remove them"
            try:
                read_image(closed[0] if isinstance(closed[0], Path) else closed[0].open("rb").read())
            except ImageError as error:
                _, _, remedy = str(error).rpartition("; ")
                first = f"{closed[0]}: {error.reason.rpartition('; ')[0]}"
            if len(closed) < len(files):
                remedy += f", or allow more, such as --data.max_unreadable {min(2 * len(closed) / len(files), 1):.2g}"
            elif closed[0].suffix.lower() in Bands.suffixes:
                remedy += ", or read other bands than RGB: --model.in_chans"
            raise DataError(
                f"{len(closed)} of {len(files)} images are damaged, or of a kind that cannot be read, such as "
                f"{first}; {remedy}"
            )
        return [f"{len(files)} images are {what}" for what, files in found.items()]

    def beside(self, found: Mapping[Split, sources.Samples], splits: tuple[Split, ...]) -> list[str]:
        """Note what lies in the folder of the data and belongs to none of its splits, those that were found or not."""
        options = self.options
        used: list[Path] = [Path(path).expanduser() for name in TABLES if (path := getattr(options, name))]
        if options.source in ("folders", "imagenet", "npz", "labelme"):
            root, packed = options.folder(LIKE), options.source == "npz"
            used += [root / name for name in ((f"{split}.npz" for split in splits) if packed else sources.NAMES)]
            aside = [] if packed else [root / split for split in splits]
            return describe_leftovers(root, leftovers(root, used, aside=aside))
        if options.source != "list":
            return []
        found = dict(found)
        for split in set(splits) - found.keys():
            with contextlib.suppress(DataError):
                found[split] = self.find(split)
        images: list[Any] = [path for samples in found.values() for path, _ in samples.items]  # pyright: ignore
        root = Path(options.root or os.path.commonpath([os.path.abspath(path.parent) for path in images])).expanduser()
        return describe_leftovers(root, leftovers(root, [*images, *used])) if root.parent != root else []

    def pattern(self, split: Split) -> str:
        """Return the recipe's pattern of the shards of a split."""
        pattern = self.options.train_shards if split == "train" else self.options.val_shards
        if pattern is None:
            raise DataError(f"which shards? --data.{split}_shards 'FOLDER/{split}-*.tar'")
        return pattern

    def shards(
        self, split: Split, transform: Callable[[Any], Tensor], shorter_side: int, classes: tuple[str, ...]
    ) -> Shards:
        """Read a split from shards: this process's share of it, see `Shards`."""
        train, options = split == "train", self.options
        rank, num_processes = share(self.trainer)
        return Shards(
            self.pattern(split),
            classes=classes,
            transform=transform,
            shorter_side=shorter_side,
            length=options.num_train if train else None,
            seed=self.seed,
            rank=rank,
            num_processes=num_processes,
            epoch=epoch_to_come(self.trainer),
            workers=suitable_workers() if options.workers is None else options.workers,
            batch_size=devices.share(options.batch_size, num_processes) if train else 1,
        )


class ClassificationData(PreparedData):
    """Batches of (images (B, channels, height, width), class indices (B,)).

    The source is looked through at once, so that mistakes show before anything is trained. It also says what the class
    indices mean, unless a model with its ``classes`` does. Of a validation image there may be several ``views``, see
    `Preprocessing.transform`. DataError where the images or labels are not as they must be.
    """

    options: DataOptions

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
        views: int = 1,
    ) -> None:
        super().__init__(options, preprocessing, splits=splits, seed=seed)
        self.views = views
        self.names: dict[str, str] = {}
        self.samples: dict[Split, sources.Samples] = {}
        self.check_bands("folders", "imagenet", "list")
        if options.source == "shards":
            self.classes = _several(classes or _class_list(options))
            if options.balanced and "train" in splits:
                self.train_labels()
            self.notes += note_shards({split: find_shards(self.pattern(split)) for split in splits}, self.classes)
            return
        for split in splits:
            known = self.samples["train"].classes if "train" in self.samples else None
            self.samples[split] = self.find(split, known)
            self.names |= self.samples[split].names
            self.notes += [note for note in self.samples[split].notes if note not in self.notes]
        pairs = [one.listed() for one in self.samples.values()]
        lists = [[path for path, _ in some] for some in pairs if some]
        self.notes += self.odd(chain(*(one.files() for one in self.samples.values())))
        if len(self.samples) > 1:
            sources.compare(self.samples, options.root)
        if lists:
            found = zip(self.samples.values(), pairs, strict=True)
            labels = (one.classes[label] for one, some in found for _, label in some)
            self.notes += find_copies(*lists, classes=labels).notes()
        self.notes += self.beside(self.samples, ("train", "val"))
        names = self.samples[splits[0]].classes
        if classes is not None and (unknown := set(names) - set(classes)):
            raise DataError(
                f"the model does not know {listed(unknown)}; it knows {listed(classes)}. "
                "Name a data folder with the model's own classes"
            )
        if absent := set(classes or ()) - set(names):
            self.notes.append(f"not in {splits[-1]}: {listed(absent)}")
        self.classes = _several(classes or names)
        told = nothing(self.classes) * (options.source in ("folders", "imagenet"))
        self.notes += doubtful_names([name for name in self.classes if name not in told])
        self.notes += note_mirrored(self.classes, options.augment.flip if "train" in splits else 0)
        if options.balanced and "train" in splits:
            self.draw_evenly(self.train_labels()[:, None] == np.arange(len(self.classes)))

    def contents(self, images: str) -> str:
        """The classes, with their images where these are counted."""
        images += " an epoch" * (self.options.source == "shards")
        listed = "train" in self.samples and self.samples["train"].told
        return f"{enumerate_names(self.classes, self.class_counts().tolist() if listed else [])}, {images}"

    def files(self, split: Split) -> list[Any]:
        """Images of a split, to be measured."""
        items = self.samples[split].items
        return [items[i][0] for i in range(len(items))]

    @property
    def lengths(self) -> list[int]:
        """Numbers of images in the splits that are read; of shards, those of an epoch of training."""
        return [len(samples.items) for samples in self.samples.values()] or [self.options.num_train]

    def train_labels(self) -> NDArray[np.int64]:
        """The class index of each training image; DataError where they are in shards, which are not looked through."""
        if "train" not in self.samples:
            raise DataError(
                "shards do not say how many images a class has; leave out data.balanced, and give loss.weights by name"
            )
        samples = self.samples["train"]
        places = np.array([self.classes.index(name) for name in samples.classes], np.int64)
        return places[samples.labels()]

    def class_counts(self) -> NDArray[np.int64]:
        """Training images of each class."""
        return np.bincount(self.train_labels(), minlength=len(self.classes))

    def dataset(self, split: Split) -> Dataset[Any]:
        """The images of a split, prepared: augmented for train, always the same for val."""
        train = split == "train"
        transform, shorter_side = (
            image_transform(self.options.augment, self.preprocessing, self.options.train_size)
            if train
            else (self.preprocessing.transform(self.views, normalize=False), self.preprocessing.shorter_side)
        )
        if self.options.source == "shards":
            return self.shards(split, transform, shorter_side, self.classes)
        return Samples(Images(self._items(split), self.preprocessing, transform, shorter_side))

    def _items(self, split: Split) -> sources.Items:
        names, items = self.samples[split].classes, self.samples[split].items
        if names == self.classes:
            return items
        # The model has more classes, or another order.
        return _Renumbered(items, [self.classes.index(name) for name in names])


class _Renumbered:
    """Items whose class indices are looked up in a table."""

    def __init__(self, items: sources.Items, table: list[int]) -> None:
        self.items, self.table = items, table

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[ImageLike, int]:
        image, label = self.items[index]
        return image, self.table[label]


def _several(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(classes) < 2:
        raise DataError(
            f"there is only the class {listed(classes)}; a classifier needs at least two, to tell them apart"
        )
    return classes


def _class_list(options: DataOptions) -> tuple[str, ...]:
    if options.classes is None or not Path(options.classes).expanduser().is_file():
        raise DataError("shards do not say what their classes are; name a file with a class a line: --data.classes")
    return tuple(read_plain_names(Path(options.classes).expanduser()))
