"""Pictures in one folder per class, or digit scenes made on the spot, as batches."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...engine.sampling import Draw, drawn
from ..digit_scenes import DigitScenes
from ..images import Preprocessing, find_pictures, read_picture
from ..loading import DataError, listed, make_loader, pair


@dataclass(kw_only=True)
class AugmentOptions:
    """How training pictures are varied.

    Attributes:
        crop_scale: Least and greatest share of the picture's area that a random crop covers.
        crop_ratio: Least and greatest width to height of a crop, before it is resized to the image size.
        flip: How often a picture is mirrored; 0 where left and right mean something.
        color_jitter: How far brightness, contrast and saturation may change.
        rand_augment: A policy in timm's words, such as rand-m9-mstd0.5-inc1; null: none.
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
        source: folders of pictures, or digit_scenes, which are made on the spot and need no download.
        root: The folder that holds train/<class>/ and val/<class>/ with pictures.
        image_size: What the model sees, in pixels: one number, or [height, width]; at least 32.
        eval_image_size: The same when it is judged and used; null: no other. Random crops magnify what they show,
            so that a model trained with them often does better on somewhat larger pictures.
        crop_fraction: How much of the shorter side validation keeps; null: what the model is known to like.
        batch_size: Pictures per batch of one process; two processes take twice as many per step.
        workers: Processes that read pictures; null: as many as suit the machine.
        augment: How training pictures are varied.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["folders", "digit_scenes"] = "folders"
    root: str | None = None
    image_size: int | tuple[int, int] = 224
    eval_image_size: int | tuple[int, int] | None = None
    crop_fraction: float | None = None
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


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files and their classes.

    Args:
        samples: (file, class index).
        transform: From RGB to a tensor.
        shorter_side: What the transform needs, see `read_picture`.
    """

    def __init__(
        self, samples: list[tuple[Path, int]], transform: Callable[[Image.Image], Tensor], shorter_side: int
    ) -> None:
        self.samples, self.transform, self.shorter_side = samples, transform, shorter_side

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, int]:
        path, label = self.samples[drawn(index)]
        return self.transform(read_picture(path, shorter_side=self.shorter_side)), label


class LabelledScenes(Dataset[tuple[Tensor, int]]):
    """Digit scenes with one digit, which is the class; made once, then kept in memory."""

    def __init__(self, scenes: DigitScenes, transform: Callable[[Image.Image], Tensor]) -> None:
        self.scenes, self.transform = scenes, transform
        self.made: dict[int, tuple[Image.Image, int]] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, int]:
        index = drawn(index)
        if index not in self.made:
            scene = self.scenes[index]
            self.made[index] = scene.image, scene.label
        image, label = self.made[index]
        return self.transform(image), label


class ClassificationData(LightningDataModule):
    """Batches of (pictures (B, 3, height, width), class indices (B,)).

    Folders are looked through at once, so that mistakes show before anything is trained.

    Args:
        options: The recipe's section ``data``.
        preprocessing: How pictures are prepared for the model; their size is that of validation.
        classes: What the class indices mean, where a model fixes that; else the folders' names, sorted.
        splits: Which splits there must be.
        seed: Where the order and the variation of training pictures start.

    Raises:
        DataError: The folders are not as they must be.
    """

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Literal["train", "val"], ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.preprocessing, self.seed = options, preprocessing, seed
        # With fewer pictures than processes, some have none to judge.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        found = {split: self._folders(split) for split in splits}
        if len(found) > 1:
            _compare(found, options.root)
        names = tuple(found[splits[0]])
        if classes is not None and (unknown := set(names) - set(classes)):
            raise DataError(
                f"the model does not know {listed(unknown)}; it knows {listed(classes)}. "
                "Name a data folder with the model's own classes"
            )
        self.classes = classes or names
        self.files = {
            split: [(path, self.classes.index(name)) for name, paths in folders.items() for path in paths]
            for split, folders in found.items()
        }

    def __str__(self) -> str:
        if self.options.source == "digit_scenes":
            counts = [self.options.scenes.num_train, self.options.scenes.num_val]
        else:
            counts = [len(files) for files in self.files.values()]
        return f"{len(self.classes)} classes, {' + '.join(map(str, counts))} pictures"

    def _folders(self, split: str) -> dict[str, list[Path]]:
        if self.options.source == "digit_scenes":
            return {name: [] for name in DigitScenes.classes}
        return _find_classes(_root(self.options), split)

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

    def dataset(self, split: Literal["train", "val"]) -> Dataset[tuple[Tensor, int]]:
        """The pictures of a split, prepared: varied for train, always the same for val."""
        train = split == "train"
        transform = self.train_transform() if train else self.preprocessing.transform()
        if self.options.source == "digit_scenes":
            scenes = self.options.scenes
            length = scenes.num_train if train else scenes.num_val
            return LabelledScenes(DigitScenes(split, length, size=scenes.size, seed=scenes.seed), transform)
        shorter_side = self.preprocessing.shorter_side
        if train:
            # A crop may cover a small part only, and that part must still have the pixels it needs.
            shorter_side = round(max(self.options.train_size) / self.options.augment.crop_scale[0] ** 0.5)
        return Pictures(self.files[split], transform, shorter_side)

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
        )


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


def _find_classes(root: Path, split: str) -> dict[str, list[Path]]:
    folder = root / split
    if not folder.is_dir():
        raise DataError(f"{root} has no folder {split!r}; expected {folder}/<class>/ with pictures")
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        raise DataError(f"{folder} has no class folders; expected {folder}/<class>/ with pictures")
    classes = {path.name: find_pictures(path) for path in folders}
    empty = [name for name, pictures in classes.items() if not pictures]
    if len(empty) == len(classes):
        raise DataError(
            f"there are no pictures in the class folders of {folder}; expected .jpg, .png and the like"
        )
    if empty:
        raise DataError(f"no pictures in {folder} for {listed(empty)}; add some, or remove the folders")
    return classes


def _compare(found: dict[str, dict[str, list[Path]]], root: str | None) -> None:
    train, val = set(found["train"]), set(found["val"])
    faults = [f"only in {a}: {listed(b)}" for a, b in (("train", train - val), ("val", val - train)) if b]
    if faults:
        raise DataError(f"the classes in {root} differ, {'; '.join(faults)}. Both must have the same folders")
