"""Options of images with masks: which, how large, how augmented, how they go through the model."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .. import options
from ..bands import BandOptions
from ..windows import InferenceOptions
from .augment import AugmentOptions


@dataclass(kw_only=True)
class ScenesOptions(options.ScenesOptions):
    """Options of generated digit scenes, with one to three digits each."""

    num_val: int = 400
    num_digits: tuple[int, int] = (1, 3)


@dataclass(kw_only=True)
class DataOptions(options.SizedOptions):
    """Options of the data: which images, how large, how many at once.

    Attributes:
        source: folders of images and masks; ade20k or cityscapes as released; labelme for folders train and val of
            images and LabelMe's JSON files; or digit_scenes, which are made on the spot and need no download.
        images: Folder of the images in it, {split} standing for train and val; for folders only, as the next two.
            Without {split} all images lie together, and the masks say which belong to a split.
        masks: Folder of the masks: PNG files with the images' names, whose values are class ids, 255 being ignored.
        mask_ending: What the names of masks have more than those of their images, before the suffix, such as _mask;
            they may lie in one folder then.
        lists: Text file with the names of the images of a split, a line each, {split} standing for train and val, such
            as ImageSets/Segmentation/{split}.txt; null: all that lie in the folders.
        classes: File with a class name on each line.
        mapping: YAML file that says which ids or colours in masks mean which class; null: ids are as in classes.
        faults: Whether images and masks that do not fit together stop the run, or are dropped from it.
        balanced: Whether images that hold rare classes are drawn more often, as if a class was drawn first.
        augment: How training images are augmented.
        bands: Values of images where model.in_chans is not 3.
        inference: How images go through the model when it is evaluated and used. Its shorter_side is also what training
            images are resized to before they are augmented.
    """

    READ_BY: ClassVar[dict[str, tuple[str, ...] | None]] = {
        **options.SizedOptions.READ_BY,
        **dict.fromkeys(("images", "masks", "mask_ending", "lists", "classes", "mapping"), ("folders",)),
        "faults": None,
    }
    TRAINING: ClassVar[tuple[str, ...]] = (*options.SizedOptions.TRAINING, "image_size", "balanced")
    source: Literal["folders", "ade20k", "cityscapes", "labelme", "digit_scenes"] = "folders"
    images: str = "images/{split}"
    masks: str = "annotations/{split}"
    mask_ending: str = ""
    lists: str | None = None
    classes: str = "classes.txt"
    mapping: str | None = None
    faults: Literal["stop", "drop"] = "stop"
    balanced: bool = False
    image_size: int | tuple[int, int] = 512
    batch_size: int = 16
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    bands: BandOptions = field(default_factory=BandOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)
