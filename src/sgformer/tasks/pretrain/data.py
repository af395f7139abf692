"""Images without labels as batches: folders of any depth, several of them with weights."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from ...engine.sampling import Draw, fold
from ..classification import sources
from ..classification.data import Images, PreparedData
from ..classification.options import PreparedOptions
from ..digit_scenes import Split
from ..folders import find_images
from ..images import Preprocessing
from ..loading import DataError, spread


@dataclass(kw_only=True)
class DataOptions(PreparedOptions):
    """Options of the data: which images, how large, how many at once. Teacher and student see the same crops.

    Attributes:
        source: images (folders), or digit_scenes, which are made on the spot and need no download.
        root: A folder with images, in folders of any depth; names of folders mean nothing.
        roots: More such folders, each with its weight: how often each of its images comes in an epoch; 0.5 is half of
            them.
        num_val: How many images are kept from training, spread evenly, to see how well the student agrees with the
            teacher.
        image_size: What the student sees in training, in pixels: one number, or [height, width]; at least 32.
    """

    source: Literal["images", "digit_scenes"] = "images"
    roots: dict[str, float] = field(default_factory=dict)
    num_val: int = 256
    image_size: int | tuple[int, int] = 112

    def __post_init__(self) -> None:
        super().__post_init__()
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


class PretrainData(PreparedData):
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

    options: DataOptions

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
        if options.source == "digit_scenes":
            self.train, self.val = (
                sources.scenes(options.scenes.make(split)).items for split in ("train", "val")
            )
            self.parts = [(list(range(len(self.train))), 1.0)]
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

    def loaded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what a loader gives: the student's size, or the teacher's where that is larger."""
        height, width = self.teacher_size or size
        return max(size[0], height), max(size[1], width)

    def dataset(self, split: Split) -> Dataset[Any]:
        """Images of a split, prepared: varied for train, always the same for val."""
        if split == "train":
            return Weighted(self.varied(self.train, self.loaded_size(self.options.train_size)), self.parts)
        preprocessing = replace(self.preprocessing, image_size=self.loaded_size(self.options.eval_size))
        return Images(
            self.val, preprocessing, preprocessing.transform(normalize=False), preprocessing.shorter_side
        )
