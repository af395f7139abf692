"""Options of images with masks: which, how large, how augmented, how they go through the model."""

from dataclasses import dataclass, field
from typing import Literal

from ..bands import BandOptions
from ..loading import pair
from .augment import AugmentOptions
from .inference import InferenceOptions


@dataclass(kw_only=True)
class ScenesOptions:
    """Options of generated digit scenes.

    Attributes:
        num_train: Images for training.
        num_val: Images for validation.
        size: Their height and width.
        num_digits: Least and most digits in an image.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 400
    size: int = 96
    num_digits: tuple[int, int] = (1, 3)
    seed: int = 0


@dataclass(kw_only=True)
class DataOptions:
    """Options of the data: which images, how large, how many at once.

    Attributes:
        source: folders of images and masks; ade20k or cityscapes as released; or digit_scenes, which are made on the
            spot and need no download.
        root: The folder that holds all the others.
        images: Folder of the images in it, {split} standing for train and val; for folders only, as the next two.
            Without {split} all images lie together, and the masks say which belong to a split.
        masks: Folder of the masks: PNG files with the images' names, whose values are class ids, 255 being ignored.
        mask_ending: What the names of masks have more than those of their images, before the suffix, such as _mask;
            they may lie in one folder then.
        classes: File with a class name on each line.
        mapping: YAML file that says which ids or colours in masks mean which class; null: ids are as in classes.
        faults: Whether images and masks that do not fit together stop the run, or are dropped from it.
        max_unreadable: Share of the images that may turn out to be unreadable before the run stops; all are named in
            unreadable.csv.
        balanced: Whether images that hold rare classes are drawn more often, as if a class was drawn first.
        image_size: What the model sees in training, in pixels: one number, or [height, width]; at least 32.
        batch_size: Images per batch of all processes together, which share it equally.
        workers: Processes that read images; null: as many as suit the machine.
        augment: How training images are varied.
        bands: What images hold where model.in_chans is not 3.
        inference: How images go through the model when it is judged and used. Its shorter_side is also what training
            images are resized to before they are varied.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["folders", "ade20k", "cityscapes", "digit_scenes"] = "folders"
    root: str | None = None
    images: str = "images/{split}"
    masks: str = "annotations/{split}"
    mask_ending: str = ""
    classes: str = "classes.txt"
    mapping: str | None = None
    faults: Literal["stop", "drop"] = "stop"
    max_unreadable: float = 0.01
    balanced: bool = False
    image_size: int | tuple[int, int] = 512
    batch_size: int = 16
    workers: int | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    bands: BandOptions = field(default_factory=BandOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)

    @property
    def train_size(self) -> tuple[int, int]:
        """(height, width) in training."""
        return pair(self.image_size)

    def __post_init__(self) -> None:
        if min(self.train_size) < 32:
            height, width = self.train_size
            raise ValueError(
                f"data.image_size {height}x{width} is too small: models of stride 32 need at least 32x32"
            )
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size {self.batch_size} must be at least 1")
