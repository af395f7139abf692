"""Labelled pictures as batches: what a recipe may ask for, variation, and the share of each process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...engine import devices
from ...engine.sampling import Draw, drawn
from ..images import Picture, PictureError, Preprocessing, read_picture
from ..loading import (
    DataError,
    Unreadable,
    collate_readable,
    epoch_to_come,
    listed,
    make_loader,
    pair,
    share,
    spread,
    suitable_workers,
)
from ..text import read_lines
from . import sources
from .shards import Shards, find_shards


@dataclass(kw_only=True)
class AugmentOptions:
    """How training pictures are varied.

    Attributes:
        crop_scale: Least and greatest share of the picture's area that a random crop covers.
        crop_ratio: Least and greatest width to height of a crop, before it is resized to the image size.
        flip: How often a picture is mirrored; 0 where left and right mean something.
        color_jitter: How far brightness, contrast and saturation may change.
        rand_augment: A policy in timm's words, such as rand-m9-mmax9-mstd0.5-inc1; null: none.
        erase: How often a random rectangle is replaced by noise.
        mixup: Strength of mixing two pictures, as the alpha of a Beta distribution; 0: never.
        cutmix: The same for pasting a part of one into another; with both, each batch draws one of them.
        mix_prob: Share of batches in which there is mixup or cutmix at all.
        mix_epochs: After how many epochs mixup and cutmix end, so that the last ones see pictures as they are; null:
            never.
    """

    crop_scale: tuple[float, float] = (0.35, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.5
    color_jitter: float = 0.0
    rand_augment: str | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_epochs: int | None = None

    @property
    def mixes(self) -> bool:
        """Whether labels are ever mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_prob > 0


@dataclass(kw_only=True)
class ScenesOptions:
    """How many digit scenes.

    Attributes:
        num_train: Pictures for training.
        num_val: Pictures for validation.
        size: Their height and width before any crop.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 1000
    size: int = 96
    seed: int = 0


@dataclass(kw_only=True)
class DataOptions:
    """Which pictures, how large, how many at once.

    Attributes:
        source: folders (train/<class>/ and val/<class>/ in root); imagenet (as released: the same, where val may be
            one folder with a list of labels); list (tables of paths and labels); torchvision (a set that it knows by
            name); npz (train.npz and val.npz in root); shards (WebDataset); digit_scenes, which are made on the spot
            and need no download.
        root: The folder that holds it all.
        val_labels: imagenet: the list of labels, a line `file class` each.
        train_list: list: a CSV or Parquet file with the columns path and label.
        val_list: list: the same for validation.
        dataset: torchvision: the name of the set, such as CIFAR10.
        download: torchvision: whether to fetch it where it is not there yet.
        train_shards: shards: files, such as 'shards/train-*.tar'.
        val_shards: shards: the same for validation.
        num_train: shards: how many pictures an epoch of training has.
        classes: shards: a file with a class name a line.
        max_unreadable: Share of the pictures that may be unreadable before the run stops; all are named in
            unreadable.csv.
        image_size: What the model sees, in pixels: one number, or [height, width]; at least 32.
        eval_image_size: The same when it is judged and used; null: no other. Random crops magnify what they show,
            so that a model trained with them often does better on somewhat larger pictures.
        crop_fraction: How much of the shorter side validation keeps; null: what the model is known to like.
        views: How many views of a picture `sgformer evaluate` looks at, whose probabilities are averaged: 1 is the
            central crop, 2 adds its mirror image, 5 the four corners, 10 the mirror images of the five. Corners differ
            from the centre where crop_fraction is below 1 or the picture no square.
        batch_size: Pictures per batch of all processes together, which share it equally.
        workers: Processes that read pictures; null: as many as suit the machine.
        augment: How training pictures are varied.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["folders", "imagenet", "list", "torchvision", "npz", "shards", "digit_scenes"] = "folders"
    root: str | None = None
    val_labels: str | None = None
    train_list: str | None = None
    val_list: str | None = None
    dataset: str | None = None
    download: bool = False
    train_shards: str | None = None
    val_shards: str | None = None
    num_train: int = 1_281_167
    classes: str | None = None
    max_unreadable: float = 0.01
    image_size: int | tuple[int, int] = 224
    eval_image_size: int | tuple[int, int] | None = None
    crop_fraction: float | None = None
    views: Literal[1, 2, 5, 10] = 1
    batch_size: int = 64
    workers: int | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)

    @property
    def train_size(self) -> tuple[int, int]:
        """(height, width) in training."""
        return pair(self.image_size)

    @property
    def eval_size(self) -> tuple[int, int]:
        """(height, width) when judged and used."""
        return pair(self.eval_image_size or self.image_size)

    def __post_init__(self) -> None:
        if min(self.train_size) < 32:
            height, width = self.train_size
            raise ValueError(
                f"data.image_size {height}x{width} is too small: models of stride 32 need at least 32x32"
            )
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size {self.batch_size} must be at least 1")
        if self.augment.mixes and self.batch_size % 2:
            raise ValueError(
                f"data.batch_size {self.batch_size} is odd; mixup and cutmix work on pairs, so make it even"
            )


class Pictures(Dataset[Any]):
    """Prepared pictures and their classes; a picture that cannot be read comes as `Unreadable`.

    Args:
        items: (picture, class index).
        transform: From RGB to a tensor.
        shorter_side: What the transform needs, see `read_picture`.
    """

    def __init__(
        self, items: sources.Items, transform: Callable[[Image.Image], Tensor], shorter_side: int
    ) -> None:
        self.items, self.transform, self.shorter_side = items, transform, shorter_side

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, int] | Unreadable:
        number = drawn(index)
        picture, label = self.items[number]
        try:
            return self.transform(read_picture(picture, shorter_side=self.shorter_side)), label
        except PictureError as error:
            name = str(picture) if isinstance(picture, Path) else f"number {number}"
            name = name.encode("utf-8", "backslashreplace").decode()  # whatever bytes are in it
            return Unreadable(name, error.reason)


class ClassificationData(LightningDataModule):
    """Batches of (pictures (B, 3, height, width), class indices (B,)).

    The source is looked through at once, so that mistakes show before anything is trained.

    Args:
        options: The recipe's section ``data``.
        preprocessing: How pictures are prepared for the model; their size is that of validation.
        classes: What the class indices mean, where a model fixes that; else what the source says.
        splits: Which splits there must be.
        seed: Where the order and the variation of training pictures start.
        views: How many views there are of a validation picture, see `Preprocessing.transform`.

    Raises:
        DataError: The pictures or labels are not as they must be.
    """

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        classes: tuple[str, ...] | None = None,
        splits: tuple[sources.Split, ...] = ("train", "val"),
        seed: int = 0,
        views: int = 1,
    ) -> None:
        super().__init__()
        self.options, self.preprocessing, self.seed, self.views = options, preprocessing, seed, views
        self.names: dict[str, str] = {}
        self.samples: dict[sources.Split, sources.Samples] = {}
        if options.source == "shards":
            self.classes = _several(classes or _class_list(options))
            for split in splits:
                find_shards(self._pattern(split))
            return
        for split in splits:
            self.samples[split] = self._find(split)
            self.names |= self.samples[split].names
        if len(self.samples) > 1:
            sources.compare(self.samples, options.root)
        names = self.samples[splits[0]].classes
        if classes is not None and (unknown := set(names) - set(classes)):
            raise DataError(
                f"the model does not know {listed(unknown)}; it knows {listed(classes)}. "
                "Name a data folder with the model's own classes"
            )
        self.classes = _several(classes or names)

    def __str__(self) -> str:
        counts = [str(len(samples.items)) for samples in self.samples.values()]
        return f"{len(self.classes)} classes, {' + '.join(counts) or self.options.num_train} pictures"

    def examples(self, num: int = 6) -> list[Image.Image]:
        """A few validation pictures as a model sees them, to watch it by; of shards none."""
        if "val" not in self.samples:
            return []
        dataset: Any = self.dataset("val")
        samples = [dataset[i] for i in spread(len(dataset), num)]
        return [
            self.preprocessing.to_picture(sample[0])
            for sample in samples
            if not isinstance(sample, Unreadable)
        ]

    @property
    def num_pictures(self) -> int:
        """Training and validation together; of shards, those of an epoch of training."""
        return sum(len(samples.items) for samples in self.samples.values()) or self.options.num_train

    def _find(self, split: sources.Split) -> sources.Samples:
        options = self.options
        match options.source:
            case "digit_scenes":
                length = options.scenes.num_train if split == "train" else options.scenes.num_val
                return sources.scenes(split, length, size=options.scenes.size, seed=options.scenes.seed)
            case "list":
                table = options.train_list if split == "train" else options.val_list
                known = self.samples["train"].classes if "train" in self.samples else None
                root = Path(options.root).expanduser() if options.root else None
                return sources.listing(table, split, root, known)
            case "imagenet":
                return sources.imagenet(_root(options), split, options.val_labels)
            case "npz":
                return sources.packed(_root(options), split)
            case "torchvision":
                root = Path(options.root or "data").expanduser()
                return sources.torchvision_set(options.dataset, root, split, download=options.download)
            case _:
                return sources.folders(_root(options), split)

    def _pattern(self, split: sources.Split) -> str:
        pattern = self.options.train_shards if split == "train" else self.options.val_shards
        if pattern is None:
            raise DataError(f"which shards? --data.{split}_shards 'FOLDER/{split}-*.tar'")
        return pattern

    def train_transform(self) -> Callable[[Image.Image], Tensor]:
        """A new crop and variation at each call."""
        augment = self.options.augment
        transform = create_transform(
            (3, *self.options.train_size),
            is_training=True,
            scale=augment.crop_scale,
            ratio=augment.crop_ratio,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.rand_augment,
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            re_prob=augment.erase,
            re_mode="pixel",
        )
        return cast(Callable[[Image.Image], Tensor], transform)

    def dataset(self, split: sources.Split) -> Dataset[Any]:
        """The pictures of a split, prepared: varied for train, always the same for val."""
        train = split == "train"
        transform = self.train_transform() if train else self.preprocessing.transform(self.views)
        shorter_side = self.preprocessing.shorter_side
        if train:
            # A crop may cover a small part only, and that part must still have the pixels it needs.
            shorter_side = round(max(self.options.train_size) / self.options.augment.crop_scale[0] ** 0.5)
        if self.options.source == "shards":
            rank, num_processes = share(self.trainer)
            return Shards(
                self._pattern(split),
                classes=self.classes,
                transform=transform,
                shorter_side=shorter_side,
                length=self.options.num_train if train else None,
                seed=self.seed,
                rank=rank,
                num_processes=num_processes,
                epoch=epoch_to_come(self.trainer),
                workers=suitable_workers() if self.options.workers is None else self.options.workers,
                batch_size=devices.share(self.options.batch_size, num_processes) if train else 1,
            )
        names = self.samples[split].classes
        items = self.samples[split].items
        if names != self.classes:  # the model has more classes, or another order
            items = _Renumbered(items, [self.classes.index(name) for name in names])
        return Pictures(items, transform, shorter_side)

    def train_dataloader(self) -> DataLoader[Any]:
        """Mixed order; a last batch that is not full is left out."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Every picture once, in order."""
        return self._loader("val")

    def _loader(self, split: Literal["train", "val"]) -> DataLoader[Any]:
        return make_loader(
            self.dataset(split),
            split,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=self.seed,
            trainer=self.trainer,
            collate=collate_readable,
        )


class _Renumbered:
    """Items whose class indices are looked up in a table."""

    def __init__(self, items: sources.Items, table: list[int]) -> None:
        self.items, self.table = items, table

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        picture, label = self.items[index]
        return picture, self.table[label]


def _root(options: DataOptions) -> Path:
    if options.root is None:
        raise DataError(
            "which pictures? Name their folder: --data.root FOLDER, with train/<class>/ and val/<class>/"
        )
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}; set --data.root to one with train/<class>/ and val/<class>/"
        )
    return root


def _several(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(classes) < 2:
        raise DataError(
            f"there is only the class {listed(classes)}; a classifier needs at least two, to tell them apart"
        )
    return classes


def _class_list(options: DataOptions) -> tuple[str, ...]:
    if options.classes is None or not Path(options.classes).expanduser().is_file():
        raise DataError(
            "shards do not say what their classes are; name a file with a class a line: --data.classes"
        )
    return tuple(read_lines(Path(options.classes).expanduser()))
