"""Options of labelled images: which, how large, how augmented."""

from dataclasses import dataclass, field
from typing import Literal

from ..bands import BandOptions
from ..loading import pair


@dataclass(kw_only=True)
class AugmentOptions:
    """Options of the augmentation of training images.

    Attributes:
        crop_scale: Least and greatest share of the image's area that a random crop covers.
        crop_ratio: Least and greatest width to height of a crop, before it is resized to the image size.
        flip: How often an image is mirrored; 0 where left and right mean something.
        color_jitter: How far brightness, contrast and saturation may change.
        rand_augment: A policy in timm's words, such as rand-m9-mmax9-mstd0.5-inc1; null: none.
        erase: How often a random rectangle is replaced by noise.
        mixup: Strength of mixing two images, as the alpha of a Beta distribution; 0: never.
        cutmix: The same for pasting a part of one into another; with both, each batch draws one of them.
        mix_prob: Share of batches in which there is mixup or cutmix at all.
        mix_epochs: After how many epochs mixup and cutmix end, so that the last ones see images as they are; null:
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
    """Options of generated digit scenes.

    Attributes:
        num_train: Images for training.
        num_val: Images for validation.
        size: Their height and width before any crop.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 1000
    size: int = 96
    seed: int = 0


@dataclass(kw_only=True)
class DataOptions:
    """Options of the data: which images, how large, how many at once.

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
        num_train: shards: how many images an epoch of training has.
        classes: shards: a file with a class name a line.
        max_unreadable: Share of the images that may be unreadable before the run stops; all are named in
            unreadable.csv.
        image_size: What the model sees, in pixels: one number, or [height, width]; at least 32.
        eval_image_size: The same when it is judged and used; null: no other. Random crops magnify what they show,
            so that a model trained with them often does better on somewhat larger images.
        crop_fraction: How much of the shorter side validation keeps; null: what the model is known to like.
        views: How many views of an image `sgformer evaluate` looks at, whose probabilities are averaged: 1 is the
            central crop, 2 adds its mirror image, 5 the four corners, 10 the mirror images of the five. Corners differ
            from the centre where crop_fraction is below 1 or the image no square.
        batch_size: Images per batch of all processes together, which share it equally.
        workers: Processes that read images; null: as many as suit the machine.
        balanced: Whether images of rare classes are drawn more often, so that all classes come equally often.
        augment: Options of the augmentation of training images.
        bands: Values of images where model.in_chans is not 3.
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
    balanced: bool = False
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    bands: BandOptions = field(default_factory=BandOptions)
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
