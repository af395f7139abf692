"""Images without labels as batches: folders of any depth, several of them with weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch import LightningDataModule
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...engine.sampling import Draw, fold
from ..classification import sources
from ..classification.data import Images
from ..classification.options import AugmentOptions, ScenesOptions
from ..folders import find_images
from ..images import Preprocessing
from ..loading import DataError, Unreadable, collate_readable, make_loader, pair, spread


@dataclass(kw_only=True)
class DataOptions:
    """Options of the data: which images, how large, how many at once.

    Attributes:
        source: images (folders), or digit_scenes, which are made on the spot and need no download.
        root: A folder with images, in folders of any depth; names of folders mean nothing.
        roots: More such folders, each with its weight: how often each of its images comes in an epoch; 0.5 is half of
            them.
        num_val: How many images are kept from training, spread evenly, to see how well the student agrees with the
            teacher.
        max_unreadable: Share of the images that may be unreadable before the run stops; all are named in
            unreadable.csv.
        image_size: What the student sees in training, in pixels: one number, or [height, width]; at least 32.
        eval_image_size: The same when it is judged and used; null: no other.
        crop_fraction: How much of the shorter side validation keeps; null: what the model is known to like.
        batch_size: Images per batch of all processes together, which share it equally.
        workers: Processes that read images; null: as many as suit the machine.
        augment: How training images are varied. Teacher and student see the same crops and mixtures.
        scenes: How many digit scenes, where those are the source.
    """

    source: Literal["images", "digit_scenes"] = "images"
    root: str | None = None
    roots: dict[str, float] = field(default_factory=dict)
    num_val: int = 256
    max_unreadable: float = 0.01
    image_size: int | tuple[int, int] = 112
    eval_image_size: int | tuple[int, int] | None = None
    crop_fraction: float | None = None
    batch_size: int = 64
    workers: int | None = None
    augment: AugmentOptions = field(default_factory=AugmentOptions)
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
        if self.batch_size < 1 or (self.augment.mixes and self.batch_size % 2):
            raise ValueError(
                f"data.batch_size {self.batch_size} must be at least 1, and even where images are mixed in pairs"
            )
        if self.num_val < 1:
            raise ValueError(f"data.num_val {self.num_val} must be at least 1")
        for root, weight in self.roots.items():
            if not 0 < weight <= 1000:
                raise ValueError(f"data.roots: the weight {weight} of {root} must be above 0, 1000 at most")


class Weighted(Dataset[Any]):
    """Images of several folders, each as often as its weight says.

    Args:
        images: Gives a sample for an index or a `Draw`.
        parts: For each folder the indices of its images, and its weight.
    """

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


class PretrainData(LightningDataModule):
    """Batches of images (B, 3, height, width), the same for teacher and student; their targets are zeros.

    The folders are looked through at once, so that mistakes show before anything is trained.

    Args:
        options: The recipe's section ``data``.
        preprocessing: How images are prepared for the student.
        teacher_size: (height, width) that the teacher sees; images come at the larger of the two sizes.
        seed: Where the order and the variation of training images start.

    Raises:
        DataError: There are no images, or too few.
    """

    def __init__(
        self,
        options: DataOptions,
        preprocessing: Preprocessing,
        *,
        teacher_size: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.options, self.preprocessing, self.seed = options, preprocessing, seed
        self.teacher_size = teacher_size
        # Of training, for each folder its images and its weight; and those of validation.
        self.parts: list[tuple[list[int], float]] = []
        self.train: sources.Items
        self.val: sources.Items
        if options.source == "digit_scenes":
            scenes = options.scenes
            self.train = sources.scenes("train", scenes.num_train, size=scenes.size, seed=scenes.seed).items
            self.val = sources.scenes("val", scenes.num_val, size=scenes.size, seed=scenes.seed).items
            self.parts = [(list(range(scenes.num_train)), 1.0)]
        else:
            self._find_images()

    def _find_images(self) -> None:
        options = self.options
        folders = {**({options.root: 1.0} if options.root else {}), **options.roots}
        if not folders:
            raise DataError("which images? Name a folder of them: --data.root FOLDER")
        paths: list[Path] = []
        for name, weight in folders.items():
            folder = Path(name).expanduser()
            if not folder.is_dir():
                raise DataError(f"there is no folder {folder}; set --data.root to one with images in it")
            found = find_images(folder)
            if not found:
                raise DataError(f"no images in {folder}; expected .jpg, .png and the like")
            self.parts.append((list(range(len(paths), len(paths) + len(found))), weight))
            paths += found
        kept = set(spread(len(paths), options.num_val))
        if len(paths) < 2 * len(kept):
            raise DataError(
                f"there are {len(paths)} images, of which data.num_val {options.num_val} are kept from training; "
                f"name more, or set --data.num_val {max(len(paths) // 10, 1)}"
            )
        parts = [([i for i in indices if i not in kept], weight) for indices, weight in self.parts]
        self.parts = [(indices, weight) for indices, weight in parts if indices]
        self.train = [(path, 0) for path in paths]
        self.val = [(paths[i], 0) for i in sorted(kept)]

    def __str__(self) -> str:
        return f"{sum(len(indices) for indices, _ in self.parts)} + {len(self.val)} images without labels"

    @property
    def num_images(self) -> int:
        """Training and validation together."""
        return sum(len(indices) for indices, _ in self.parts) + len(self.val)

    def examples(self, num: int = 6) -> list[Image.Image]:
        """A few validation images as the student sees them, to watch it by."""
        dataset = Images(
            self.val, self.preprocessing, self.preprocessing.transform(), self.preprocessing.shorter_side
        )
        samples = [dataset[i] for i in spread(len(self.val), num)]
        return [self.preprocessing.to_image(s[0]) for s in samples if not isinstance(s, Unreadable)]

    def loaded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what a loader gives: the student's size, or the teacher's where that is larger."""
        height, width = self.teacher_size or size
        return max(size[0], height), max(size[1], width)

    def train_transform(self) -> Callable[[Image.Image], Tensor]:
        """A new crop and variation at each call."""
        augment = self.options.augment
        transform = create_transform(
            (3, *self.loaded_size(self.options.train_size)),
            is_training=True,
            scale=augment.crop_scale,
            ratio=augment.crop_ratio,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.rand_augment,
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            re_prob=augment.erase,
            re_mode="pixel",
        )
        return cast(Callable[[Image.Image], Tensor], transform)

    def train_dataloader(self) -> DataLoader[Any]:
        """Mixed order; a last batch that is not full is left out."""
        longest = max(self.loaded_size(self.options.train_size))
        # A crop may cover a small part only, and that part must still have the pixels it needs.
        shorter_side = round(longest / self.options.augment.crop_scale[0] ** 0.5)
        images = Images(self.train, self.preprocessing, self.train_transform(), shorter_side)
        return self._loader(Weighted(images, self.parts), "train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Every image once, in order."""
        size = self.loaded_size(self.options.eval_size)
        preprocessing = Preprocessing(
            image_size=size,
            crop_fraction=self.preprocessing.crop_fraction,
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )
        images = Images(self.val, preprocessing, preprocessing.transform(), preprocessing.shorter_side)
        return self._loader(images, "val")

    def _loader(self, dataset: Dataset[Any], split: Literal["train", "val"]) -> DataLoader[Any]:
        return make_loader(
            dataset,
            split,
            batch_size=self.options.batch_size,
            workers=self.options.workers,
            seed=self.seed,
            trainer=self.trainer,
            collate=collate_readable,
        )
