"""Pictures with a mask each, or digit scenes made on the spot, as batches."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from ...engine.sampling import Draw, drawn
from ..digit_scenes import DigitScenes
from ..images import Preprocessing, read_picture
from ..loading import DataError, listed, make_loader, pair, spread
from .augment import Augment, AugmentOptions
from .inference import InferenceOptions
from .layouts import Layout, Sample, Split, ade20k, check, cityscapes, folders, read_mask
from .masks import IGNORE, Coding

# From which share on ignored pixels are mentioned.
NOTED = 0.1


@dataclass(kw_only=True)
class ScenesOptions:
    """How many digit scenes.

    Attributes:
        num_train: Pictures for training.
        num_val: Pictures for validation.
        size: Their height and width.
        num_digits: Least and most digits in a picture.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 400
    size: int = 96
    num_digits: tuple[int, int] = (1, 3)
    seed: int = 0


@dataclass(kw_only=True)
class DataOptions:
    """Which pictures, how large, how many at once.

    Attributes:
        source: folders of pictures and masks; ade20k or cityscapes as released; or digit_scenes, which are made on the
            spot and need no download.
        root: The folder that holds all the others.
        images: Folder of the pictures in it, {split} standing for train and val; for folders only, as the next two.
            Without {split} all pictures lie together, and the masks say which belong to a split.
        masks: Folder of the masks: PNG files with the pictures' names, whose values are class ids, 255 being ignored.
        classes: File with a class name on each line.
        mapping: YAML file that says which ids or colours in masks mean which class; null: ids are as in classes.
        faults: Whether pictures and masks that do not fit together stop the run, or are dropped from it.
        image_size: What the model sees in training, in pixels: one number, or [height, width]; at least 32.
        batch_size: Pictures per batch of all processes together, which share it equally.
        workers: Processes that read pictures; null: as many as suit the machine.
        augment: How training pictures are varied.
        inference: How pictures go through the model when it is judged and used. Its shorter_side is also what training
            pictures are resized to before they are varied.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["folders", "ade20k", "cityscapes", "digit_scenes"] = "folders"
    root: str | None = None
    images: str = "images/{split}"
    masks: str = "annotations/{split}"
    classes: str = "classes.txt"
    mapping: str | None = None
    faults: Literal["stop", "drop"] = "stop"
    image_size: int | tuple[int, int] = 512
    batch_size: int = 16
    workers: int | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
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


class Masked(Dataset[tuple[Image.Image, NDArray[np.uint8]]]):
    """Pictures and class maps of their size, from files."""

    def __init__(self, samples: list[Sample], coding: Coding) -> None:
        self.samples, self.coding = samples, coding

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        sample = self.samples[index]
        picture = read_picture(sample.picture)
        return picture, read_mask(sample, self.coding, (picture.height, picture.width))[0]


class MaskedScenes(Dataset[tuple[Image.Image, NDArray[np.uint8]]]):
    """Digit scenes and their class maps: 0 is background, 1 + digit the digits. Made once, then kept in memory."""

    classes = ("background", *DigitScenes.classes)

    def __init__(self, scenes: DigitScenes) -> None:
        self.scenes = scenes
        self.made: dict[int, tuple[Image.Image, NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        if index not in self.made:
            scene = self.scenes[index]
            self.made[index] = scene.image, scene.semantic
        return self.made[index]


class Varied(Dataset[tuple[Tensor, Tensor]]):
    """Crops for training: pictures (3, height, width), normalised, and masks (height, width) of indices."""

    def __init__(
        self, pictures: "Masked | MaskedScenes", augment: Augment, preprocessing: Preprocessing
    ) -> None:
        self.pictures, self.augment = pictures, augment
        self.mean, self.std = (
            torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int | Draw) -> tuple[Tensor, Tensor]:
        picture, mask = self.pictures[drawn(index)]
        pixels, indices = self.augment(tv_tensors.Image(picture), tv_tensors.Mask(torch.from_numpy(mask)))
        return (pixels.float() / 255 - self.mean) / self.std, indices.long()


class SegmentationData(LightningDataModule):
    """Batches for training: pictures (B, 3, height, width), masks (B, height, width). For validation: lists.

    Pictures for validation are RGB pictures as they are, of any size, and masks are tensors (H, W): a model judges them
    one by one, so that no result depends on how many are in a batch.

    Folders are looked through at once, and every mask is read, so that mistakes show before anything is trained.

    Args:
        options: The recipe's section ``data``.
        preprocessing: How pictures are prepared for the model.
        classes: What the indices mean, where a model fixes that; else the data's own.
        splits: Which splits there must be.
        seed: Where the order and the variation of training pictures start.

    Attributes:
        dropped: Files that are left out, with the reason.
        notes: What is unusual and no fault: masks without a class, classes without a pixel.
        counts: Pixels of each class of the files' coding, and ignored ones last, by picture of a split.

    Raises:
        DataError: Pictures and masks are not as they must be.
    """

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        classes: tuple[str, ...] | None = None,
        splits: tuple[Split, ...] = ("train", "val"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.preprocessing, self.seed = options, preprocessing, seed
        self.dropped: dict[str, str] = {}
        self.notes: list[str] = []
        self.splits = splits
        self.samples: dict[Split, list[Sample]] = {}
        self.counts: dict[Split, NDArray[np.int64]] = {}
        if options.source == "digit_scenes":
            self.coding = Coding.plain(MaskedScenes.classes)
        else:
            root = _root(options)
            layout = _layout(options, root)
            self.coding = layout.coding
            for split in splits:
                self.samples[split] = self._checked(layout, root, split)
        self.palette = self.coding.palette
        if classes is not None:
            self.coding = self.coding.reordered(classes)
        self.classes = self.coding.classes

    def __str__(self) -> str:
        counts = [len(self.pictures(split)) for split in (self.samples or ("train", "val"))]  # pyright: ignore
        dropped = f", {len(self.dropped)} dropped" if self.dropped else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{len(self.classes)} classes, {' + '.join(map(str, counts))} pictures{dropped}{notes}"

    def _checked(self, layout: Layout, root: Path, split: Split) -> list[Sample]:
        samples, faults = layout.find(root, split)
        looked = check(samples, layout.coding)
        faults |= looked.faults
        if faults and self.options.faults == "stop":
            path, reason = next(iter(sorted(faults.items())))
            more = f"; {len(faults) - 1} more files have faults" if len(faults) > 1 else ""
            raise DataError(f"{path} {reason}{more}. Correct it, or do without: --data.faults drop")
        self.dropped |= faults
        samples = [sample for sample in samples if str(sample.mask) not in faults]
        if not samples:
            raise DataError(f"no picture of {split} in {root} is left: {next(iter(faults.items()), '')}")
        self.notes += looked.notes
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
        if ignored >= NOTED:
            self.notes.append(f"{ignored:.0%} of {split} is ignored")

    def pictures(self, split: Split) -> Masked | MaskedScenes:
        """The pictures of a split with their class maps, as they are."""
        if self.options.source == "digit_scenes":
            scenes = self.options.scenes
            length = scenes.num_train if split == "train" else scenes.num_val
            made = DigitScenes(
                split, length, size=scenes.size, num_digits=scenes.num_digits, seed=scenes.seed
            )
            return MaskedScenes(made)
        return Masked(self.samples[split], self.coding)

    def examples(self, num: int = 6) -> list[Image.Image]:
        """A few validation pictures, cut to the size in training, to watch a model by."""
        pictures, (height, width) = self.pictures("val"), self.options.train_size
        return [ImageOps.fit(pictures[i][0], (width, height)) for i in spread(len(pictures), num)]

    def augment(self) -> Augment:
        """A new variation at each call."""
        return Augment(
            self.options.augment,
            size=self.options.train_size,
            shorter_side=self.options.inference.shorter_side,
            interpolation=self.preprocessing.interpolation,
            fill=tuple(255 * value for value in self.preprocessing.mean),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Mixed order; a last batch that is not full is left out."""
        return self._loader(Varied(self.pictures("train"), self.augment(), self.preprocessing), "train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Every picture once, in order."""
        return self._loader(self.pictures("val"), "val", collate=_listed)

    def _loader(self, dataset: Dataset[Any], split: Split, collate: Any = None) -> DataLoader[Any]:
        return make_loader(
            dataset,
            split,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=self.seed,
            trainer=self.trainer,
            collate=collate,
        )


def _with_object(coding: Coding, absent: list[str]) -> dict[str, int]:
    """Ids of classes as they are, but for one that is nowhere, which is taken for 255."""
    ids = {coding.classes[index]: id_ for id_, index in sorted(coding.ids.items()) if index != IGNORE}
    return ids | {absent[-1]: IGNORE}


def _listed(
    samples: list[tuple[Image.Image, NDArray[np.uint8]]],
) -> tuple[list[Image.Image], list[Tensor]]:
    return [picture for picture, _ in samples], [torch.from_numpy(mask) for _, mask in samples]


def _root(options: DataOptions) -> Path:
    if options.root is None:
        raise DataError(
            "which pictures? Name their folder: --data.root FOLDER, with images/train/, images/val/, "
            "annotations/train/, annotations/val/ and classes.txt"
        )
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; set --data.root to the one that holds images and masks")
    return root


def _layout(options: DataOptions, root: Path) -> Layout:
    if options.source == "ade20k":
        return ade20k(root)
    if options.source == "cityscapes":
        return cityscapes()
    return folders(
        root,
        images=options.images,
        masks=options.masks,
        classes=options.classes,
        mapping=options.mapping,
    )
