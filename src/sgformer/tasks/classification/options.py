"""Options of labelled images: which, how large, how augmented."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..bands import BandOptions
from ..images import pair
from ..options import ScenesOptions, SizedOptions
from .augment import AugmentOptions


@dataclass(kw_only=True)
class PreparedOptions(SizedOptions):
    """Options of images that are cropped to one size, as classification and pretraining take them.

    Attributes:
        eval_image_size: What the model sees when it is evaluated and used; null: as in training. Random crops magnify
            what they show, so that a model trained with them often does better on somewhat larger images.
        crop_fraction: How much of the shorter side validation keeps; null: what the model is known to like.
        augment: How training images are augmented.
    """

    eval_image_size: int | tuple[int, int] | None = None
    crop_fraction: float | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)

    @property
    def eval_size(self) -> tuple[int, int]:
        """(height, width) when evaluated and used."""
        return pair(self.eval_image_size or self.image_size)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment.mixes and self.batch_size % 2:
            raise ValueError(
                f"data.batch_size {self.batch_size} is odd; mixup and cutmix work on pairs, so make it even"
            )


# Keys of `SourceOptions` that a resumed run may change.
FOLLOWED = tuple(
    f"data.{name}" for name in ("train_list", "val_list", "train_shards", "val_shards", "val_labels", "download")
)


@dataclass(kw_only=True)
class SourceOptions(PreparedOptions):
    """Options of where images come from, which classification and pretraining share.

    Attributes:
        source: folders (train/<class>/ and val/<class>/ in root); imagenet (as released: the same, where val may be
            one folder with a list of labels); list (tables of paths and labels); labelme (train/ and val/ in root, the
            flag that LabelMe's file of an image sets is its class; not for pretraining); torchvision (a set that it
            knows by name); npz (train.npz and val.npz in root); shards (WebDataset); digit_scenes, which are made on
            the spot and need no download.
        val_labels: imagenet: the list of labels, a line `file class` each.
        train_list: list: a CSV or Parquet file with the columns path and label.
        val_list: list: the same for validation.
        dataset: torchvision: the name of the set, such as CIFAR10.
        download: torchvision: whether to fetch it where it is not there yet.
        train_shards: shards: files, such as 'shards/train-*.tar'.
        val_shards: shards: the same for validation.
        num_train: shards: how many images an epoch of training has.
    """

    READ_BY: ClassVar[dict[str, tuple[str, ...] | None]] = {
        **SizedOptions.READ_BY,
        **dict.fromkeys(("train_list", "val_list"), ("list",)),
        **dict.fromkeys(("dataset", "download"), ("torchvision",)),
        **dict.fromkeys(("train_shards", "val_shards", "num_train", "classes"), ("shards",)),
        "val_labels": ("imagenet",),
    }
    TRAINING: ClassVar[tuple[str, ...]] = (
        *SizedOptions.TRAINING,
        *("train_list", "train_shards", "num_train", "balanced"),
    )
    source: Any = "folders"
    val_labels: str | None = None
    train_list: str | None = None
    val_list: str | None = None
    dataset: str | None = None
    download: bool = False
    train_shards: str | None = None
    val_shards: str | None = None
    num_train: int = 1_281_167


@dataclass(kw_only=True)
class DataOptions(SourceOptions):
    """Options of the data: which labelled images, how large, how many at once.

    Attributes:
        classes: shards: a file with a class name a line.
        views: How many views of an image `sgformer evaluate` looks at, whose probabilities are averaged: 1 is the
            central crop, 2 adds its mirror image, 5 the four corners, 10 the mirror images of the five. Corners differ
            from the centre where crop_fraction is below 1 or the image no square.
        balanced: Whether images of rare classes are drawn more often, so that all classes come equally often.
        bands: Values of images where model.in_chans is not 3.
    """

    source: Literal["folders", "imagenet", "list", "labelme", "torchvision", "npz", "shards", "digit_scenes"] = (
        "folders"
    )
    classes: str | None = None
    views: Literal[1, 2, 5, 10] = 1
    balanced: bool = False
    bands: BandOptions = field(default_factory=BandOptions)
