"""Pictures with boxes and masks, from COCO's format or made on the spot, as batches for a detector."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...engine.sampling import Draw, drawn
from ..digit_scenes import DigitScenes
from ..images import read_picture
from ..loading import DataError, listed, make_loader, pair, spread
from . import coco

Target = dict[str, Any]


@dataclass(kw_only=True)
class AugmentOptions:
    """How training pictures are varied, boxes and masks along with them.

    Attributes:
        shorter_sides: Lengths of the shorter side, one of which is drawn for each picture; empty: that of image_size.
        crop: Height and width of a random part, taken where a picture is larger after it was resized; null: all of it.
        flip: How often a picture is mirrored; 0 where left and right mean something.
        flip_vertical: How often it is turned upside down, for pictures that have no up, such as from a microscope.
        photometric: How often brightness, contrast, saturation and hue are changed.
    """

    shorter_sides: list[int] = field(default_factory=list)
    crop: int | None = None
    flip: float = 0.5
    flip_vertical: float = 0.0
    photometric: float = 0.0

    def __post_init__(self) -> None:
        if min([*self.shorter_sides, self.crop or 32]) < 32:
            raise ValueError("data.augment.shorter_sides and data.augment.crop must be at least 32 pixels")


@dataclass(kw_only=True)
class SplitOptions:
    """Where the pictures of a split are, and what is in them.

    Attributes:
        images: The folder of the pictures, from data.root.
        annotations: The JSON file in COCO's format, from data.root; null: annotations/instances_train.json, or
            instances_val.json.
    """

    images: str = "images"
    annotations: str | None = None

    def file(self, split: str) -> str:
        """The annotations of a split, from data.root."""
        return self.annotations or f"annotations/instances_{split}.json"


@dataclass(kw_only=True)
class ScenesOptions:
    """How many digit scenes.

    Attributes:
        num_train: Pictures for training.
        num_val: Pictures for validation.
        size: Their height and width: one number, or both.
        num_digits: Least and greatest number of digits in one.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 500
    size: int | tuple[int, int] = 128
    num_digits: tuple[int, int] = (0, 4)
    seed: int = 0


@dataclass(kw_only=True)
class DataOptions:
    """Which pictures, how large, how many at once.

    Attributes:
        source: coco, for annotations in COCO's format; or digit_scenes, which are made on the spot.
        root: The folder from which train and val name theirs.
        train: Where the training pictures are.
        val: Where the validation pictures are.
        image_size: What the model sees: how long the shorter side of a picture becomes, and how long the longer one may
            become at most. Small pictures are enlarged.
        multiple: Sides are rounded to multiples of it, for backbones that insist, such as swin on 4.
        batch_size: Pictures per batch of one process.
        workers: Processes that read pictures; null: as many as suit the machine.
        invalid: What happens to annotations with faults, such as a box without width: error, or drop, which leaves
            them out.
        augment: How training pictures are varied.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["coco", "digit_scenes"] = "coco"
    root: str | None = None
    train: SplitOptions = field(default_factory=SplitOptions)
    val: SplitOptions = field(default_factory=SplitOptions)
    image_size: tuple[int, int] = (800, 1333)
    multiple: int = 1
    batch_size: int = 2
    workers: int | None = None
    invalid: Literal["error", "drop"] = "error"
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    scenes: ScenesOptions = field(default_factory=ScenesOptions)

    def __post_init__(self) -> None:
        shorter, longest = self.image_size
        if not 32 <= shorter <= longest:
            raise ValueError(
                f"data.image_size [{shorter}, {longest}]: first the shorter side, at least 32, then the longest side"
            )
        if self.batch_size < 1 or self.multiple < 1:
            raise ValueError(
                f"data.batch_size {self.batch_size} and data.multiple {self.multiple} must be at least 1"
            )


def resized(size: tuple[int, int], *, shorter: int, longest: int, multiple: int = 1) -> tuple[int, int]:
    """(height, width) that a picture is resized to: its shape is kept, no side is below 32 pixels.

    Args:
        size: (height, width) of the picture.
        shorter: Length of the shorter side.
        longest: Of the longer side at most.
        multiple: Sides are rounded to multiples of it.

    Example:
        >>> resized((480, 640), shorter=800, longest=1333)
        (800, 1067)
        >>> resized((200, 1000), shorter=800, longest=1333)
        (267, 1333)
    """
    scale = min(shorter / min(size), longest / max(size))
    height, width = (max(32, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def to_tensor(image: Image.Image) -> Tensor:
    """8 bits (3, height, width) from an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Pictures as tensors of 8 bits, with what is in them.

    For training they are resized and varied, and crowds are left out; else they are as they are. Labels start from 1,
    since 0 is the background to torchvision.

    Args:
        records: The pictures; or None, with scenes instead.
        scenes: Digit scenes, which are made once, then kept in memory.
        masks: Whether masks are needed.
        augment: How the pictures are varied; None: not at all.
        image_size: Length of the shorter side after resizing, and of the longer side at most.
        multiple: What sides are rounded to.
    """

    def __init__(
        self,
        records: tuple[coco.Annotated, ...] | None,
        scenes: DigitScenes | None,
        *,
        masks: bool,
        augment: AugmentOptions | None,
        image_size: tuple[int, int],
        multiple: int = 1,
    ) -> None:
        self.records, self.scenes, self.masks = records, scenes, masks
        self.augment, self.image_size, self.multiple = augment, image_size, multiple
        self.made: dict[int, tuple[Tensor, Target, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.records if self.records is not None else self.scenes or ())

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, Target]:
        index = drawn(index)
        image, target = self._scene(index) if self.records is None else self._record(self.records[index])
        return self._varied(image, target) if self.augment else (image, target)

    def _record(self, record: coco.Annotated) -> tuple[Tensor, Target]:
        target = {
            "boxes": torch.from_numpy(record.boxes),
            "labels": torch.from_numpy(record.labels) + 1,
            "iscrowd": torch.from_numpy(record.crowds).long(),
            "area": torch.from_numpy(record.areas),
            "image_id": record.image_id,
        }
        if self.masks:
            target["masks"] = torch.from_numpy(record.masks())
        image = to_tensor(read_picture(record.path))
        if tuple(image.shape[1:]) != record.size:
            raise DataError(f"{record.path} is no longer as large as its annotations say; start again")
        return image, target

    def _scene(self, index: int) -> tuple[Tensor, Target]:
        if index not in self.made:
            assert self.scenes is not None
            scene = self.scenes[index]
            # Digits do not share a pixel, so one map of their numbers holds all masks.
            places = (scene.masks * np.arange(1, len(scene.labels) + 1)[:, None, None]).sum(0)
            target = {
                "boxes": torch.from_numpy(scene.boxes),
                "labels": torch.from_numpy(scene.labels) + 1,
                "iscrowd": torch.zeros(len(scene.labels), dtype=torch.int64),
                "area": torch.from_numpy(scene.masks.sum((1, 2)).astype(np.float32)),
                "image_id": index,
            }
            self.made[index] = to_tensor(scene.image), target, torch.from_numpy(places.astype(np.uint8))
        image, target, places = self.made[index]
        if not self.masks:
            return image, target
        numbers = torch.arange(1, len(target["labels"]) + 1)[:, None, None]
        return image, {**target, "masks": (places == numbers).to(torch.uint8)}

    def _varied(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        assert self.augment is not None
        options = self.augment
        objects = target["iscrowd"] == 0
        size = (int(image.shape[1]), int(image.shape[2]))
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(image),
            "boxes": tv_tensors.BoundingBoxes(target["boxes"][objects], format="XYXY", canvas_size=size),  # pyright: ignore
            "labels": target["labels"][objects],
        }
        if self.masks:
            sample["masks"] = tv_tensors.Mask(target["masks"][objects])
        shorter, longest = self.image_size
        if options.shorter_sides:
            shorter = options.shorter_sides[int(torch.randint(len(options.shorter_sides), ()))]
        size = resized(size, shorter=shorter, longest=longest, multiple=self.multiple)
        steps: list[Any] = [v2.Resize(size, antialias=True)]
        if options.crop and options.crop < max(size):
            steps.append(v2.RandomCrop((min(options.crop, size[0]), min(options.crop, size[1]))))
        steps += [v2.RandomHorizontalFlip(options.flip), v2.RandomVerticalFlip(options.flip_vertical)]
        steps.append(v2.RandomApply([v2.RandomPhotometricDistort(p=0.5)], p=options.photometric))
        steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
        sample = v2.Compose(steps)(sample)
        if self.masks:
            # A box that was cut may hold no pixel of its object any more.
            left = sample["masks"].bool().flatten(1).any(1)
            sample |= {key: sample[key][left] for key in ("boxes", "labels", "masks")}
        return sample.pop("image"), sample


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Pictures differ in size, so a batch is a list of them and a list of what is in them."""
    return [image for image, _ in samples], [target for _, target in samples]


class DetectionData(LightningDataModule):
    """Batches of (pictures [(3, height, width)], targets [{boxes, labels, masks, ...}]).

    Annotations are looked through at once, so that mistakes show before anything is trained.

    Args:
        options: The recipe's section ``data``.
        masks: Whether masks are needed.
        classes: The classes that a model knows, where there is one; else those of the data.
        splits: Which splits there must be.
        seed: Where the order and the variation of training pictures start.

    Attributes:
        classes: What the labels mean, from 1 on.
        category_ids: The ids that the annotations give them.

    Raises:
        DataError: Files or annotations are not as they must be.
    """

    def __init__(
        self,
        options: DataOptions,
        *,
        masks: bool,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Literal["train", "val"], ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.masks, self.seed = options, masks, seed
        # With fewer pictures than processes, some have none to judge.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.found: dict[str, coco.Annotations] = {}
        if options.source == "digit_scenes":
            self.classes: tuple[str, ...] = DigitScenes.classes
            self.category_ids: tuple[int, ...] = tuple(range(1, 11))
        else:
            self.found = {split: self._read(split) for split in splits}
            first = self.found[splits[0]]
            self.classes, self.category_ids = first.classes, first.category_ids
            for other in list(self.found.values())[1:]:
                if faults := list(coco.same_categories(first, other)):
                    raise DataError(
                        f"the categories of {options.train.file('train')} and {options.val.file('val')} differ, "
                        f"{'; '.join(faults)}. Both must have the same ids and names"
                    )
        if classes is not None and self.classes != classes:
            unknown, missing = set(self.classes) - set(classes), set(classes) - set(self.classes)
            raise DataError(
                f"the model knows {listed(classes)}; the data have {listed(self.classes)}"
                + (f": {listed(unknown)} unknown to the model" if unknown else "")
                + (f": {listed(missing)} not in the data" if missing else "")
                + ". Name data with the model's own classes, in the same order of ids"
            )

    def __str__(self) -> str:
        if self.options.source == "digit_scenes":
            scenes = self.options.scenes
            return f"{len(self.classes)} classes, {scenes.num_train} + {scenes.num_val} pictures"
        pictures = " + ".join(str(len(found.pictures)) for found in self.found.values())
        objects = " + ".join(
            str(sum(len(picture.labels) for picture in found.pictures)) for found in self.found.values()
        )
        return f"{len(self.classes)} classes, {pictures} pictures, {objects} objects"

    def _read(self, split: Literal["train", "val"]) -> coco.Annotations:
        root = _root(self.options)
        where = self.options.train if split == "train" else self.options.val
        file = where.file(split)
        found = coco.read(root / file, root / where.images, masks=self.masks, invalid=self.options.invalid)
        if found.faults:
            # Said once and for all; what was wrong with each stands in the error without --data.invalid drop.
            warnings.warn(
                f"{file}: {len(found.faults)} faults left out, such as {found.faults[0]}",
                stacklevel=2,
            )
        return found

    def dataset(self, split: Literal["train", "val"]) -> DetectionDataset:
        """The pictures of a split: varied for train, as they are for val."""
        train, options = split == "train", self.options
        records, scenes = None, None
        if options.source == "digit_scenes":
            chosen = options.scenes
            length = chosen.num_train if train else chosen.num_val
            scenes = DigitScenes(
                split, length, size=pair(chosen.size), num_digits=chosen.num_digits, seed=chosen.seed
            )
        else:
            records = self.found[split].pictures
        return DetectionDataset(
            records,
            scenes,
            masks=self.masks,
            augment=options.augment if train else None,
            image_size=options.image_size,
            multiple=options.multiple,
        )

    def examples(self, num: int = 6) -> list[Image.Image]:
        """A few validation pictures, cut to squares of the shorter side, to watch a model by."""
        dataset, side = self.dataset("val"), self.options.image_size[0]
        pictures = [v2.functional.to_pil_image(dataset[i][0]) for i in spread(len(dataset), num)]
        return [ImageOps.fit(picture, (side, side)) for picture in pictures]

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
            collate=collate,
        )


def _root(options: DataOptions) -> Path:
    if options.root is None:
        raise DataError(
            "which pictures? Name their folder: --data.root FOLDER, with images/ and "
            "annotations/instances_train.json and instances_val.json, or name others: --data.train.images and so on"
        )
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}; set --data.root to the one with images/ and annotations/"
        )
    return root
