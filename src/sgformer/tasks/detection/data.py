"""Images with boxes and masks, from COCO's format or made on the spot, as batches for a detector."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ...engine.sampling import Draw, drawn
from ..digit_scenes import DigitScenes
from ..errors import DataError, listed
from ..folders import Split
from ..images import ImageError, read_image
from ..loading import Batch, Unreadable, collate_listed
from ..task import Data
from . import coco, sources
from .augment import Augment, Target, to_tensor
from .masks import area, decode
from .options import DataOptions
from .sources import SplitOptions


class DetectionDataset(Dataset[Any]):
    """Images as tensors of 8 bits, with what is in them; one that cannot be read comes as `Unreadable`.

    For training ``augment`` resizes and varies them; else they are as they are. They are the records', or the scenes'
    where there are none. Labels start from 1, since 0 is the background to torchvision.
    """

    def __init__(
        self,
        records: tuple[coco.Annotated, ...] | None,
        scenes: DigitScenes | None,
        *,
        masks: bool,
        augment: Augment | None,
    ) -> None:
        self.records, self.scenes, self.masks, self.augment = records, scenes, masks, augment
        self.made: dict[int, tuple[Tensor, Target, Tensor]] = {}  # scenes are kept in memory

    def __len__(self) -> int:
        return len(self.records if self.records is not None else self.scenes or ())

    def __getitem__(self, index: int | Draw) -> Any:
        batch_seed = index.batch_seed if isinstance(index, Draw) else None
        index = drawn(index)
        try:
            image, target = self._scene(index) if self.records is None else self._record(self.records[index])
        except ImageError as error:
            return Unreadable(str(error.path), error.reason)
        return self.augment(image, target, batch_seed=batch_seed) if self.augment else (image, target)

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
        image = to_tensor(read_image(record.path))
        if tuple(image.shape[1:]) != record.size:
            raise ImageError(str(record.path), "is no longer as large as its annotations say; start again")
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


def _by_class(classes: Sequence[str], counts: Sequence[int]) -> str:
    """The classes and how many objects each has; of many classes the rarest."""
    pairs = sorted(zip(classes, counts, strict=True), key=lambda pair: pair[1])
    told = [f"{name} {count}" for name, count in zip(classes, counts, strict=True)]
    if len(pairs) > 20:
        told = [f"{name} {count}" for name, count in pairs[:10]]
        told.append(f"the others {pairs[10][1]} to {pairs[-1][1]}")
    return f"{len(pairs)} classes ({', '.join(told)})"


class DetectionData(Data):
    """Batches of (images [(3, height, width)], targets [{boxes, labels, masks, ...}]).

    Annotations are looked through at once, so that mistakes show before anything is trained. Their classes must be
    those of a model, where there is one, which can find up to ``max_detections`` objects in an image.

    Attributes:
        category_ids: The ids that the annotations give the classes; labels count these from 1 on.

    Raises:
        DataError: Files or annotations are not as they must be.
    """

    options: DataOptions

    def __init__(
        self,
        options: DataOptions,
        *,
        masks: bool,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
        max_detections: int | None = None,
    ) -> None:
        super().__init__(options, seed=seed)
        self.masks = masks
        self.found: dict[Split, coco.Annotations] = {}
        self.max_detections = max_detections
        if options.source == "digit_scenes":
            self.classes: tuple[str, ...] = DigitScenes.classes
            self.category_ids: tuple[int, ...] = tuple(range(1, 11))
        else:
            self.found = self._read(splits, classes)
            first = self.found[splits[0]]
            self.classes, self.category_ids = first.classes, first.category_ids
        if classes is not None and self.classes != classes:
            unknown, missing = set(self.classes) - set(classes), set(classes) - set(self.classes)
            raise DataError(
                f"the model knows {', '.join(classes[:9])}; the data have {', '.join(self.classes[:9])}"
                + (f": {listed(unknown)} unknown to the model" if unknown else "")
                + (f": {listed(missing)} not in the data" if missing else "")
                + ". Name data with the model's own classes, in the same order of ids"
            )
        self.notes = [line for split in self.found for line in self._notes(split)]

    def __str__(self) -> str:
        if self.options.source == "digit_scenes":
            scenes = self.options.scenes
            return f"{len(self.classes)} classes, {scenes.num_train} + {scenes.num_val} images"
        first, *_ = self.found.values()
        images = " + ".join(str(len(found.images)) for found in self.found.values())
        objects, crowds = (
            " + ".join(str(sum(found.counts(crowds=crowds))) for found in self.found.values())
            for crowds in (False, True)
        )
        told = _by_class(self.classes, first.counts())
        return ". ".join([f"{told}, {images} images, {objects} objects, {crowds} crowds", *self.notes])

    def _notes(self, split: Split) -> list[str]:
        """Say in a sentence what was left out of a split or not read as it stands."""
        found = self.found[split]
        said = [f"{what}: {count}" for what, count in found.notes.items()]
        if found.faults:
            said.insert(0, f"{len(found.faults)} faults left out: {coco.first(found.faults)}")
        absent = [name for name, count in zip(found.classes, found.counts(), strict=True) if not count]
        if split == "val" and (why := found.why_nothing()):
            said.append(f"nothing can be evaluated, {why}; the last epoch's weights are kept")
        elif absent:
            said.append(f"no object of {listed(absent)}")
        most = max(int((~image.crowds).sum()) for image in found.images)
        if self.max_detections is not None and most > self.max_detections:
            said.append(
                f"up to {most} objects an image, of which at most {self.max_detections} can be found; "
                f"set --heads.max_detections {most}"
            )
        return [f"{split}: {'; '.join(said)}"] if said else []

    @property
    def num_images(self) -> int:
        """Training and validation images together."""
        if self.options.source == "digit_scenes":
            return self.options.scenes.num_train + self.options.scenes.num_val
        return sum(len(found.images) for found in self.found.values())

    def _read(self, splits: tuple[Split, ...], classes: tuple[str, ...] | None) -> dict[Split, coco.Annotations]:
        options = self.options
        assert options.source != "digit_scenes"
        places: dict[Split, SplitOptions] = {"train": options.train, "val": options.val}
        found = sources.read(
            options.folder(
                "images/, annotations/instances_train.json and instances_val.json, or name others: "
                "--data.train.images and so on; --data.source yolo and voc read other formats"
            ),
            places,
            options.source,
            masks=self.masks,
            splits=splits,
            invalid=options.invalid,
            crowds=options.crowds,
            first_pixel=options.first_pixel,
            classes=classes,
            learned=self._learned,
        )
        if "train" in found and (why := found["train"].why_nothing()):
            raise DataError(f"{found['train'].path}: nothing to learn from: {why}")
        if len(found) == 2 and (unlike := list(coco.same_categories(found["train"], found["val"]))):
            raise DataError(
                f"the categories of training and validation differ, {'; '.join(unlike)}. Both must have the same "
                "ids and names"
            )
        return found

    def _learned(self, image: coco.Annotated) -> NDArray[np.bool_]:
        """Tell which objects of an image are left at the size of training."""
        scale = min(new / old for new, old in zip(self.augment.size(image.size), image.size, strict=True))
        # A mask of many pixels does not fall between the pixels that are kept.
        masks = [
            torch.from_numpy(decode(rle)) if rle and scale < 1 and area(rle) * scale**2 < 64 else None
            for rle in image.rles
        ]
        return self.augment.leaves(torch.from_numpy(image.boxes), masks, image.size).numpy()

    @property
    def augment(self) -> Augment:
        """Build the augmentation of training images."""
        options = self.options
        return Augment(options.augment, image_size=options.sides, multiple=options.multiple)

    def dataset(self, split: Split) -> DetectionDataset:
        """The images of a split: varied for train, as they are for val."""
        made = self.options.source == "digit_scenes"
        return DetectionDataset(
            None if made else self.found[split].images,
            self.options.scenes.make(split) if made else None,
            masks=self.masks,
            augment=self.augment if split == "train" else None,
        )

    def as_image(self, sample: Any) -> Image.Image:
        """Cut an image to a square of the shorter side."""
        side = self.options.shorter_side
        return ImageOps.fit(v2.functional.to_pil_image(sample[0]), (side, side))

    def collate(self, split: Split) -> Callable[[list[Any]], Batch]:
        """Make lists, since images differ in size."""
        return collate_listed

    def likeness(self) -> list[float] | None:
        """Logarithm of each training image's height relative to its width."""
        if not self.options.like_together:
            return None
        if not self.found:
            return [0.0] * self.options.scenes.num_train
        return [math.log(image.size[0] / image.size[1]) for image in self.found["train"].images]
