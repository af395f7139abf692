"""Images with boxes and masks, from annotations or generated digit scenes, as batches."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from ..data import Data
from ..digit_scenes import DigitScenes, Made, Scene
from ..errors import DataError, listed
from ..folders import Split
from ..images import ImageError, read_image
from ..loading import Batch, Samples, collate_listed
from ..text import enumerate_names, note_mirrored
from . import coco, sources
from .augment import Augment, Target, to_tensor
from .masks import area, decode
from .options import DataOptions


class Records:
    """Annotated images as tensors of 8 bits, with what is in them; label 0 is torchvision's background."""

    def __init__(self, records: tuple[coco.Annotated, ...], *, masks: bool) -> None:
        self.records, self.masks = records, masks

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> tuple[Tensor, Target]:
        record = self.records[number]
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


class Scenes(Made):
    """Digit scenes likewise. Digits do not share a pixel, so one map of their numbers keeps all masks."""

    def __init__(self, scenes: DigitScenes, *, masks: bool) -> None:
        super().__init__(scenes, _with_places)
        self.masks = masks

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, target, places = super().__getitem__(index)
        target = {**target, "image_id": index}
        if self.masks:
            numbers = torch.arange(1, len(target["labels"]) + 1)[:, None, None]
            target["masks"] = (places == numbers).to(torch.uint8)
        return image, target


def _with_places(scene: Scene) -> tuple[Tensor, Target, Tensor]:
    places = (scene.masks * np.arange(1, len(scene.labels) + 1)[:, None, None]).sum(0)
    target = {
        "boxes": torch.from_numpy(scene.boxes),
        "labels": torch.from_numpy(scene.labels) + 1,
        "iscrowd": torch.zeros(len(scene.labels), dtype=torch.int64),
        "area": torch.from_numpy(scene.masks.sum((1, 2)).astype(np.float32)),
    }
    return to_tensor(scene.image), target, torch.from_numpy(places.astype(np.uint8))


class DetectionData(Data):
    """Batches of (images [(3, height, width)], targets [{boxes, labels, masks, ...}]).

    Annotations are looked through at once, so that mistakes show before anything is trained. Their classes must be
    those of a model, where there is one, which can find up to ``max_detections`` objects in an image, in
    ``num_proposals`` regions of each of ``num_maps``. DataError where files or annotations are not as they must be.
    """

    options: DataOptions
    category_ids: tuple[int, ...]  # which the annotations give the classes; labels count these from 1 on
    between = ". "

    def __init__(
        self,
        options: DataOptions,
        *,
        masks: bool,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
        max_detections: int | None = None,
        num_proposals: int | None = None,
        num_maps: int = 1,
    ) -> None:
        super().__init__(options, splits=splits, seed=seed)
        self.masks = masks
        self.found: dict[Split, coco.Annotations] = {}
        self.limits = {"max_detections": (max_detections, 1), "num_proposals": (num_proposals, num_maps)}
        if options.source == "digit_scenes":
            self.classes: tuple[str, ...] = DigitScenes.classes
            self.category_ids = tuple(range(1, 11))
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
        self.notes += note_mirrored(self.classes, options.augment.flip if "train" in splits else 0)

    def contents(self, images: str) -> str:
        """The classes, with their objects, and how many there are in all."""
        if not self.found:
            return f"{len(self.classes)} classes, {images}"
        first, *_ = self.found.values()
        objects, crowds = (
            " + ".join(str(sum(found.counts(crowds=crowds))) for found in self.found.values())
            for crowds in (False, True)
        )
        return f"{enumerate_names(self.classes, first.counts())}, {images}, {objects} objects, {crowds} crowds"

    def _notes(self, split: Split) -> list[str]:
        """Say in a sentence what was left out of a split or not read as it stands."""
        found = self.found[split]
        said = [f"{what}: {count}" for what, count in found.notes.items()]
        if found.faults:
            said.insert(0, f"{len(found.faults)} faults left out: {coco.first(found.faults)}")
        absent = [name for name, count in zip(found.classes, found.counts(), strict=True) if not count]
        if split == "val" and (why := found.why_nothing()):
            said.append(
                f"nothing can be evaluated, {why}" + "; the last epoch's weights are kept" * ("train" in self.found)
            )
        elif absent:
            said.append(f"no object of {listed(absent)}")
        most = max(int((~image.crowds).sum()) for image in found.images)
        said += [
            f"up to {most} objects an image, of which at most {limit * times} can be found; set --heads.{key} "
            f"{math.ceil(most / times)}"
            for key, (limit, times) in self.limits.items()
            if limit is not None and most > limit * times
        ]
        return [f"{split}: {'; '.join(said)}"] if said else []

    def _read(self, splits: tuple[Split, ...], classes: tuple[str, ...] | None) -> dict[Split, coco.Annotations]:
        root = self.options.folder(
            "images/, annotations/instances_train.json and instances_val.json, or name others: "
            "--data.train.images and so on; --data.source yolo, voc and labelme read other formats"
        )
        found = sources.read(
            root, self.options, masks=self.masks, splits=splits, classes=classes, learned=self._learned
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
        """Augmentation of training images."""
        options = self.options
        return Augment(options.augment, image_size=options.sides, multiple=options.multiple)

    def dataset(self, split: Split) -> Samples:
        """The images of a split: augmented for train, as they are for val."""
        if self.found:
            source = Records(self.found[split].images, masks=self.masks)
        else:
            source = Scenes(self.options.scenes.make(split), masks=self.masks)
        return Samples(source, self.augment if split == "train" else None)

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
