"""Images without labels as batches: folders of any depth, several of them with weights."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from ...engine.sampling import Draw, fold
from ..classification import sources
from ..classification.augment import image_transform
from ..classification.data import Images, PreparedData
from ..classification.options import SourceOptions
from ..classification.shards import find_shards, note_shards
from ..errors import DataError
from ..folders import MASKS, Split, describe_left_out, find_copies, look_through, note_masks, number
from ..images import Preprocessing
from ..loading import Samples, spread


@dataclass(kw_only=True)
class DataOptions(SourceOptions):
    """Options of the data: which images, how large, how many at once. Teacher and student see the same crops.

    Attributes:
        source: images (folders of any depth, whose names mean nothing), or any source of classification but labelme,
            whose training images are taken. Their labels are not used, and a list needs none.
        root: The folder with images.
        roots: images: more such folders, each with its weight: how often each of its images comes in an epoch; 0.5 is
            half of them.
        num_val: How many images are kept from training, spread evenly, to see how well the student agrees with the
            teacher; of shards those of val_shards are.
        image_size: What the student sees in training, in pixels: one number, or [height, width]; at least 32.
    """

    source: Literal["images", "folders", "imagenet", "list", "torchvision", "npz", "shards", "digit_scenes"] = "images"
    roots: dict[str, float] = field(default_factory=dict)
    num_val: int = 256
    image_size: int | tuple[int, int] = 112

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_val < 1:
            raise ValueError(f"data.num_val {self.num_val} must be at least 1")
        if self.roots and self.source != "images":
            raise ValueError(f"data.roots are folders of images; for data.source {self.source} leave them out")
        for root, weight in self.roots.items():
            if not 0 < weight <= 1000:
                raise ValueError(f"data.roots: the weight {weight} of {root} must be above 0, 1000 at most")


class Weighted(Dataset[Any]):
    """Samples of several folders, each as often as its weight says; ``parts`` are the indices and weight of each."""

    def __init__(self, images: Dataset[Any], parts: list[tuple[list[int], float]]) -> None:
        self.images = images
        # For each place in an epoch the images that may stand there; with a weight below 1 they take turns.
        self.choices: list[list[int]] = []
        for indices, weight in parts:
            num = max(round(weight * len(indices)), 1)
            self.choices += [indices[i % len(indices) :: num] for i in range(num)]

    def __len__(self) -> int:
        return len(self.choices)

    def __getitem__(self, index: int | Draw) -> Any:
        if not isinstance(index, Draw):
            return self.images[self.choices[index][0]]
        choices = self.choices[index.index]
        return self.images[index._replace(index=choices[fold(index.seed) % len(choices)])]


class PretrainData(PreparedData):
    """Batches of images (B, 3, height, width), the same for teacher and student; their targets are zeros.

    The source is looked through at once, so that mistakes show before anything is trained: a DataError says where there
    are no images, or too few. The ``preprocessing`` is the student's; images come at its size, or at the
    ``teacher_size``, (height, width), where that is larger.
    """

    options: DataOptions
    labelled = False

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        teacher_size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(options, preprocessing, seed=seed)
        self.teacher_size = teacher_size
        # Of training, for each folder its images and its weight; and those of validation.
        self.parts: list[tuple[list[int], float]] = []
        self.train: sources.Items
        self.val: sources.Items
        match options.source:
            case "shards":
                self.train = self.val = []
                self.notes += note_shards(
                    {"train": find_shards(self.pattern("train")), "val": find_shards(self.pattern("val"))}, ()
                )
            case "digit_scenes":
                self.train, self.val = self.find("train").items, self.find("val").items
                self.parts = [(list(range(len(self.train))), 1.0)]
            case "images":
                self._keep(self._look_through())
            case _:
                samples = self.find("train")
                self.notes += [*samples.notes, *self.beside({"train": samples}, ("train",))]
                self.parts = [(list(range(len(samples.items))), 1.0)]
                self._keep(samples.items)

    def _look_through(self) -> list[tuple[Path, int]]:
        """Find the images of all folders, and which of them are in which one."""
        options = self.options
        folders = {**({options.root: 1.0} if options.root else {}), **options.roots}
        if not folders:
            raise DataError("which images? Name a folder of them: --data.root FOLDER")
        paths: list[Path] = []
        for name, weight in folders.items():
            folder = Path(name).expanduser()
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder}; set --data.root to one with images in it")
            found, left_out = look_through(folder)
            there = describe_left_out(left_out)
            if not found:
                raise DataError(f"no images in {folder}{there and f', but {there}'}; expected .jpg, .png and the like")
            self.notes += [f"left out of {folder}: {there}"] if there else []
            masks = [path for path in found if MASKS & {part.lower() for part in path.relative_to(folder).parts[:-1]}]
            self.notes += [f"{len(masks)} images lie in folders of masks or labels, {masks[0].parent}"] if masks else []
            self.parts.append((list(range(len(paths), len(paths) + len(found))), weight))
            paths += found
        if twice := len(paths) - len(set(map(number, paths))):
            self.notes.append(f"{twice} images are also in another of the folders, or linked")
        return [(path, 0) for path in paths]

    def _keep(self, items: sources.Items) -> None:
        """Keep some images from training."""
        num, paths = self.options.num_val, [image for image, _ in items] if isinstance(items, list) else []
        self.notes += [*self.odd(paths), *find_copies(paths).notes(), *note_masks(paths)]
        if len(items) < 2:
            raise DataError("there is one image alone; name a folder or a list with more")
        kept = dict.fromkeys(spread(len(items), num))
        if len(items) < 2 * len(kept):
            raise DataError(
                f"there are {len(items)} images, of which data.num_val {num} are kept from training; "
                f"name more, or set --data.num_val {max(len(items) // 10, 1)}"
            )
        parts = [([i for i in indices if i not in kept], weight) for indices, weight in self.parts]
        self.parts = [(indices, weight) for indices, weight in parts if indices]
        self.train, self.val = items, [items[i] for i in kept]

    def contents(self, images: str) -> str:
        """Images alone."""
        return f"{images} without labels"

    @property
    def lengths(self) -> list[int]:
        """Numbers of images for training and for validation; of shards, those of an epoch of training."""
        if self.options.source == "shards":
            return [self.options.num_train]
        return [sum(len(indices) for indices, _ in self.parts), len(self.val)]

    def loaded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what a loader gives: the student's size, or the teacher's where that is larger."""
        height, width = self.teacher_size or size
        return max(size[0], height), max(size[1], width)

    def dataset(self, split: Split) -> Dataset[Any]:
        """Images of a split, prepared: augmented for train, always the same for val."""
        train, options = split == "train", self.options
        preprocessing = replace(self.preprocessing, image_size=self.loaded_size(options.eval_size))
        transform, shorter_side = (
            image_transform(options.augment, preprocessing, self.loaded_size(options.train_size))
            if train
            else (preprocessing.transform(normalize=False), preprocessing.shorter_side)
        )
        if options.source == "shards":
            return self.shards(split, transform, shorter_side, ())
        images = Samples(Images(self.train if train else self.val, preprocessing, transform, shorter_side))
        return Weighted(images, self.parts) if train else images
