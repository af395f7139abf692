"""Images with masks, or generated digit scenes, as batches."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from ..bands import Bands
from ..data import Data
from ..digit_scenes import DigitScenes, Made
from ..errors import DataError, listed
from ..folders import Split, find_copies, look_through
from ..images import ImageError, Preprocessing
from ..loading import Samples, collate_listed, collate_readable
from ..text import doubtful_names, enumerate_names, note_mirrored
from .augment import Augment
from .labelme import shapes
from .layouts import Layout, Sample, ade20k, check, cityscapes, folders, num_rearranged, read_mask
from .masks import IGNORE, Coding
from .options import DataOptions

# From which share on ignored pixels are mentioned.
NOTED = 0.1
# From which difference on the share of a class in training and in validation is mentioned.
UNLIKE = 0.5
CLASSES_OF_SCENES = ("background", *DigitScenes.classes)


class Masked:
    """Images, as they are read for a model, and class maps of their size, by number."""

    def __init__(self, samples: list[Sample], coding: Coding, preprocessing: Preprocessing) -> None:
        self.samples, self.coding, self.preprocessing = samples, coding, preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Any, NDArray[np.uint8]]:
        sample = self.samples[number]
        image = self.preprocessing.read(sample.image)
        height, width = functional.get_size(image)
        bands = isinstance(self.preprocessing, Bands)
        try:
            mask, _ = read_mask(sample, self.coding, (height, width), bands=bands)
        except DataError as error:  # damaged or lost since it was checked
            raise ImageError(str(sample.mask), str(error)) from error
        if mask.shape != (height, width):
            raise ImageError(str(sample.mask), "is no longer as large as its image; start again")
        return image, mask


class SegmentationData(Data):
    """Batches for training: images (B, channels, height, width), masks (B, height, width). For validation: lists.

    Images for validation are as they are read, of any size, and masks (H, W): a model judges them one by one, so that
    no result depends on how many are in a batch. Folders are looked through at once, and every mask is read, so that
    mistakes show before anything is trained. They say what the indices mean, unless a model with its ``classes`` does.
    DataError where images and masks are not as they must be.
    """

    options: DataOptions

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        super().__init__(options, preprocessing, splits=splits, seed=seed)
        self.check_bands("folders")
        self.dropped: dict[str, str] = {}  # files that are left out, with the reason
        self.samples: dict[Split, list[Sample]] = {}
        # Pixels of each class of the files' coding, and ignored ones last, by image of a split.
        self.counts: dict[Split, NDArray[np.int64]] = {}
        if options.source == "digit_scenes":
            self.coding = Coding.plain(CLASSES_OF_SCENES)
        else:
            root = options.folder("images/train/, images/val/, annotations/train/, annotations/val/ and classes.txt")
            layout = _layout(options, root)
            self.coding = layout.coding
            for split in splits:
                self.samples[split] = self._checked(layout, root, split)
            self._note_files(layout, root)
        self.classes = self.coding.classes
        self.shares: dict[Split, dict[str, float]] = {
            split: self._shares(counts) for split, counts in self.counts.items()
        }
        self._note_unlike()
        self.notes += doubtful_names(self.classes)
        self.notes += note_mirrored(self.classes, options.augment.flip if "train" in splits else 0)
        if options.balanced and "train" in splits:
            self.draw_evenly(self.train_counts())
        self.palette = self.coding.palette
        if classes is not None:
            self.coding = self.coding.reordered(classes)
        self.classes = self.coding.classes

    def contents(self, images: str) -> str:
        """The classes with their shares of all pixels that are not ignored, and how many files were dropped."""
        shares = next(iter(self.shares.values()), {})
        told = enumerate_names(self.classes, [shares.get(name, 0) for name in self.classes] if shares else [], _percent)
        return f"{told}, {images}" + f", {len(self.dropped)} dropped" * bool(self.dropped)

    def _note_files(self, layout: Layout, root: Path) -> None:
        """Note copies of images, masks whose colours may be meant, and files that are not used."""
        self.notes += find_copies(*([sample.image for sample in samples] for samples in self.samples.values())).notes()
        samples = [sample for samples in self.samples.values() for sample in samples]
        images, masks = {sample.image for sample in samples}, [sample.mask for sample in samples]
        drawn = self.options.source == "labelme"
        if self.coding.colours is None and not drawn and (odd := num_rearranged(masks, len(self.coding.classes))):
            self.notes.append(
                f"{odd} masks have the colours of others in another order, and are read by number; if colours are "
                "classes, name them: --data.mapping FILE"
            )
        if "{split}" not in layout.images:
            used = images | {Path(path) for path in self.dropped} | self._of_others(layout, root)
            folder = root / layout.images
            if rest := set(look_through(folder, self.preprocessing.suffixes).images) - used:
                what = "are in no list" if layout.lists else "have no mask in any split"
                self.notes.append(f"{len(rest)} images of {folder} {what}")
        others = {Path(self.options.mapping)} if self.options.mapping else set()
        others |= {root / layout.lists.format(split=name) for name in layout.splits.values() if layout.lists}
        if drawn:  # from files that may name images elsewhere
            others |= images | self._of_others(layout, root)
        self.notes += layout.beside(root, *others)

    def _note_unlike(self) -> None:
        """Note classes whose shares of training and validation are far apart."""
        if len(self.shares) > 1:
            for name, share in self.shares["train"].items():
                if abs(share - (other := self.shares["val"][name])) >= UNLIKE:
                    self.notes.append(f"{name} is {_percent(share)} of train and {_percent(other)} of val")

    def _shares(self, counts: NDArray[np.int64]) -> dict[str, float]:
        """The share of each class in the pixels of a split that are not ignored."""
        total = counts[:, :-1].sum(0)
        return dict(zip(self.coding.classes, (total / total.sum()).tolist(), strict=True))

    def _of_others(self, layout: Layout, root: Path) -> set[Path]:
        """The images of a split that is not read."""
        found: set[Path] = set()
        for split in layout.splits.keys() - self.samples.keys():
            with contextlib.suppress(DataError):
                samples, *_ = layout.find(root, split, self.preprocessing.suffixes)  # pyright: ignore
                found |= {sample.image for sample in samples}
        return found

    def _checked(self, layout: Layout, root: Path, split: Split) -> list[Sample]:
        samples, faults, notes = layout.find(root, split, self.preprocessing.suffixes)
        self.notes += notes
        looked = check(samples, layout.coding, self.preprocessing)
        faults |= looked.faults
        if faults and self.options.faults == "stop":
            path, reason = next(iter(sorted(faults.items())))
            more = f"; {len(faults) - 1} more files have faults" if len(faults) > 1 else ""
            raise DataError(f"{path} {reason}{more}. Correct it, or do without: --data.faults drop")
        self.dropped |= faults
        if faults:
            (path, reason), *_ = sorted(faults.items())
            names = listed(os.path.relpath(path, root) for path in faults)
            self.notes.append(f"dropped from {split}: {names}; {os.path.relpath(path, root)} {reason}")
        samples = [sample for sample in samples if str(sample.mask) not in faults]
        if not samples:
            first = " ".join(next(iter(faults.items()), ("there is none",)))
            raise DataError(f"no image of {split} in {root} is left: {first}")
        self.notes += [f"{split}: {note}" for note in looked.notes]
        self._judge(split, looked.counts, layout.coding)
        self.counts[split] = np.stack([looked.counts[str(sample.mask)] for sample in samples])
        return samples

    def _judge(self, split: Split, counts: dict[str, NDArray[np.int64]], coding: Coding) -> None:
        """Raise, or note, where masks leave little to learn."""
        total = np.sum(list(counts.values()), axis=0)
        absent = [name for name, pixels in zip(coding.classes, total, strict=False) if not pixels]
        ignored = total[-1] / total.sum()
        if not total[:-1].any():
            raise DataError(
                f"every pixel of every mask of {split} is ignored, {next(iter(counts))} among them; "
                "see classes.txt, or what --data.mapping ignores"
            )
        if absent and ignored and coding.by_custom and split == "train":
            ids = ", ".join(f"{name}: {id_}" for name, id_ in _with_object(coding, absent).items())
            raise DataError(
                f"no mask of {split} holds {listed(absent)}, and {ignored:.1%} of all pixels are {IGNORE}, which is "
                f"ignored. If {IGNORE} is a class, say so in a YAML file: --data.mapping FILE, with the line "
                f"`classes: {{{ids}}}`. If it is to be ignored, say that: `ignore: [{IGNORE}]` there, or a line "
                f"`{IGNORE} ignore` in classes.txt"
            )
        if len(absent) == len(coding.classes) - 1:
            (only,) = set(coding.classes) - set(absent)
            if "train" in self.splits:
                raise DataError(
                    f"all pixels of {split} that are not ignored are {only}; there must be two classes to tell apart"
                )
        if empty := [path for path, found in counts.items() if not found[:-1].any()]:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            self.notes.append(f"ignored altogether: {empty[0]}{more}")
        if absent:
            self.notes.append(f"not in {split}: {listed(absent)}")
        there = [np.flatnonzero(found[:-1]) for found in counts.values()]
        if alone := Counter(coding.classes[classes[0]] for classes in there if len(classes) == 1):
            told = ", ".join(f"{name} {number}" for name, number in alone.most_common(5))
            self.notes.append(f"masks of {split} with one class alone: {told}" + ", ..." * (len(alone) > 5))
        some = sum(bool(found[-1]) for found in counts.values())
        if some and coding.by_custom:  # by nobody's word; an object may be written so
            self.notes.append(
                f"{ignored:.1%} of {split} is {IGNORE}, which is ignored, in {some} of {len(counts)} masks"
            )
        elif ignored >= NOTED:
            self.notes.append(f"{ignored:.0%} of {split} is ignored")

    def images(self, split: Split) -> Masked | Made:
        """The images of a split with their class maps, as they are; in digit scenes 0 is background."""
        if self.options.source == "digit_scenes":
            return Made(self.options.scenes.make(split), attrgetter("image", "semantic"))
        return Masked(self.samples[split], self.coding, self.preprocessing)

    def files(self, split: Split) -> list[Any]:
        """Images of a split, to be measured."""
        return [sample.image for sample in self.samples[split]]

    def as_image(self, sample: Any) -> Any:
        """Cut the middle of an image, of the shape and at the size that training sees."""
        size = self.options.train_size
        height, width = functional.get_size(sample[0])
        factor = max(size[0] / height, size[1] / width)
        larger = [max(size[0], round(height * factor)), max(size[1], round(width * factor))]
        return functional.center_crop(functional.resize(sample[0], larger), [*size])

    def train_counts(self) -> NDArray[np.int64]:
        """Pixels of each class in each training image, (images, classes); scenes made on the spot are a DataError."""
        if "train" not in self.counts:
            raise DataError("digit scenes are not counted; leave out data.balanced, and give loss.weights by name")
        return self.counts["train"][:, :-1]

    def class_counts(self) -> NDArray[np.int64]:
        """Training pixels of each class."""
        return self.train_counts().sum(0)

    def augment(self) -> Augment:
        """Augmentation of training images."""
        return Augment(
            self.options.augment,
            size=self.options.train_size,
            shorter_side=self.options.inference.shorter_side,
            interpolation=self.preprocessing.interpolation,
            fill=tuple(self.preprocessing.full * value for value in self.preprocessing.mean),
        )

    def dataset(self, split: Split) -> Samples:
        """Images of a split with their masks: crops for train, as they are for val."""
        return Samples(self.images(split), self.augment() if split == "train" else None)

    def collate(self, split: Split) -> Callable[[list[Any]], Any]:
        """Choose what makes a batch: tensors for train, lists for val."""
        return collate_readable if split == "train" else collate_listed


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _with_object(coding: Coding, absent: list[str]) -> dict[str, int]:
    """Ids of classes as they are, but for one that is nowhere, which is taken for 255."""
    ids = {coding.classes[index]: id_ for id_, index in sorted(coding.ids.items()) if index != IGNORE}
    return ids | {absent[-1]: IGNORE}


def _layout(options: DataOptions, root: Path) -> Layout:
    if options.source == "ade20k":
        return ade20k(root)
    if options.source == "cityscapes":
        return cityscapes()
    if options.source == "labelme":
        return shapes(root)
    for key in ("images", "masks", "lists"):
        pattern = getattr(options, key) or ""
        if {*pattern.replace("{split}", "")} & {*"{}"}:
            raise DataError(f"data.{key} {pattern}: of what stands in braces only {{split}} is known")
        if key == "lists" and pattern and "{split}" not in pattern:
            raise DataError(f"data.lists {pattern} is one list for both splits; write {{split}} for train and val")
    return folders(
        root,
        images=options.images,
        masks=options.masks,
        classes=options.classes,
        mapping=options.mapping,
        mask_ending=options.mask_ending,
        lists=options.lists,
    )
