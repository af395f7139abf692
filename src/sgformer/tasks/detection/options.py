"""Options of images with boxes and masks: which, how large, how augmented."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from .. import options
from . import coco
from .augment import AugmentOptions


@dataclass(kw_only=True)
class ScenesOptions(options.ScenesOptions):
    """Options of generated digit scenes, with up to four digits each."""

    num_val: int = 500
    size: int | tuple[int, int] = 128
    num_digits: tuple[int, int] = (0, 4)


@dataclass(kw_only=True)
class SplitOptions:
    """Where the images of a split are, and what is in them.

    Attributes:
        images: The folder of the images, from data.root; null: images; for yolo that of data.yaml, or images/train
            and images/val, and it may be a text file that lists images; for voc JPEGImages; for labelme beside the
            annotations.
        annotations: From data.root; null: annotations/instances_train.json and instances_val.json. For yolo the file
            with the names of the classes; null: data.yaml. For voc a list of images, or a folder of XML files; null:
            ImageSets/Main/train.txt and val.txt. For labelme a folder of JSON files, or a list; null: train and val.
    """

    images: str | None = None
    annotations: str | None = None


@dataclass(kw_only=True)
class DataOptions(options.DataOptions):
    """Options of the data: which images, how large, how many at once.

    Attributes:
        source: The format of the annotations: coco, yolo for text files, voc for XML files, labelme for a JSON file an
            image; or digit_scenes, which are made on the spot.
        root: The folder from which train and val name theirs.
        train: Where the training images are.
        val: Where the validation images are.
        shorter_side: How long the shorter side of an image becomes, in pixels, at least 32. Small images are enlarged.
        max_side: How long the longer one may become at most.
        multiple: Sides are rounded to multiples of it, for backbones that insist, such as swin on 4.
        like_together: Whether images of like shape share a batch in training, and the drawn length of their shorter
            side, so that most go through the backbone together and little is padded.
        invalid: What happens to annotations with faults, such as a box without width: error, or drop, which leaves
            them out.
        crowds: What crowds (iscrowd 1) are: ignore, regions that count neither way, or objects like others, which some
            tools write as crowds.
        first_pixel: voc: where pixels count from: 1 as in the challenge; 0, with right and bottom as edges, as CVAT and
            Label Studio write them.
        augment: How training images are augmented.
    """

    READ_BY: ClassVar[dict[str, tuple[str, ...] | None]] = {
        **options.DataOptions.READ_BY,
        **dict.fromkeys(("train.images", "train.annotations", "val.images", "val.annotations")),
        "invalid": None,
        "crowds": ("coco",),
        "first_pixel": ("voc",),
    }
    TRAINING: ClassVar[tuple[str, ...]] = (*options.DataOptions.TRAINING, "train", "multiple", "like_together")
    source: Literal["coco", "yolo", "voc", "labelme", "digit_scenes"] = "coco"
    train: SplitOptions = field(default_factory=SplitOptions)
    val: SplitOptions = field(default_factory=SplitOptions)
    shorter_side: int = 800
    max_side: int = 1333
    multiple: int = 1
    batch_size: int = 2
    like_together: bool = True
    invalid: coco.Faults = "error"
    crowds: coco.Crowds = "ignore"
    first_pixel: Literal[0, 1] = 1
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 32 <= self.shorter_side <= self.max_side:
            raise ValueError(
                f"data.shorter_side {self.shorter_side} must be at least 32, and data.max_side {self.max_side} no less"
            )
        if self.multiple < 1:
            raise ValueError(f"data.multiple {self.multiple} must be at least 1")

    @property
    def sides(self) -> tuple[int, int]:
        """Shorter side, and the longer one at most."""
        return self.shorter_side, self.max_side
