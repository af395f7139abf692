"""Sections that the recipes of all tasks have; a task narrows what is `Any` here."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..engine.fit import TrainerOptions
from ..engine.optim import OptimOptions
from .backbones import ModelOptions
from .digit_scenes import DigitScenes
from .errors import DataError
from .folders import Split
from .images import pair


@dataclass(kw_only=True)
class ScenesOptions:
    """Options of generated digit scenes.

    Attributes:
        num_train: Images for training.
        num_val: Images for validation.
        size: Their height and width before any crop: one number, or both.
        num_digits: Least and greatest number of digits in one.
        seed: Which ones.
    """

    num_train: int = 4000
    num_val: int = 1000
    size: int | tuple[int, int] = 96
    num_digits: tuple[int, int] = (1, 1)
    seed: int = 0

    def make(self, split: Split) -> DigitScenes:
        """The scenes of a split."""
        length = self.num_train if split == "train" else self.num_val
        return DigitScenes(split, length, size=pair(self.size), num_digits=self.num_digits, seed=self.seed)


@dataclass(kw_only=True)
class DataOptions:
    """Options of the data: which images, and how many at once.

    Attributes:
        source: Where they come from.
        root: The folder that holds it all.
        max_unreadable: Share of the images that may be unreadable before the run stops; all are named in
            unreadable.csv.
        batch_size: Images per batch of all processes together, which share it equally.
        workers: Processes that read images; null: as many as suit the machine.
        scenes: How many digit scenes, where those are the source.
    """

    # Keys that some sources alone read, and which those are; None: all but digit_scenes.
    READ_BY: ClassVar[dict[str, tuple[str, ...] | None]] = {"root": None, "scenes": ("digit_scenes",)}
    # Keys and sections that evaluation does not read.
    TRAINING: ClassVar[tuple[str, ...]] = ("augment", "bands", "max_unreadable", "scenes.num_train")

    source: Any = "digit_scenes"
    root: str | None = None
    max_unreadable: float = 0.01
    batch_size: int = 64
    workers: int | None = None
    scenes: Any = field(default_factory=ScenesOptions)

    def folder(self, like: str) -> Path:
        """Find the folder of the data; where it is not named or not there, a DataError says what it is ``like``."""
        if self.root is None:
            raise DataError(f"which images? Name their folder: --data.root FOLDER, with {like}")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise DataError(f"there is no folder {root}; set --data.root to one with {like}")
        return root

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size {self.batch_size} must be at least 1")


@dataclass(kw_only=True)
class SizedOptions(DataOptions):
    """Images that a model sees at one size in training.

    Attributes:
        image_size: What the model sees in training, in pixels: one number, or [height, width]; at least 32.
    """

    image_size: int | tuple[int, int] = 224

    @property
    def train_size(self) -> tuple[int, int]:
        """(height, width) in training."""
        return pair(self.image_size)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.train_size) < 32:
            height, width = self.train_size
            raise ValueError(f"data.image_size {height}x{width} is too small: models of stride 32 need at least 32x32")


@dataclass(kw_only=True)
class Recipe:
    """Sections that the recipes of all tasks have.

    Attributes:
        task: Whose recipe it is.
        seed: Of all randomness.
        model: Which backbone.
        data: Which images, how large, how many at once.
        optim: The optimizer and its learning rate.
        trainer: How long, how precise, and on what.
    """

    # Keys of earlier versions, and those that took their place.
    RENAMED: ClassVar[dict[str, tuple[str, ...]]] = {}
    # Keys that a resumed run may change, beside those of `engine.resuming`; a star stands for any end.
    FOLLOWED: ClassVar[tuple[str, ...]] = tuple(
        "model.drop_path_rate data.root data.workers data.max_unreadable data.augment.*".split()  # noqa: SIM905
    )
    # Keys, and sections, that have no effect where another has some value: which, in words, and whether it has.
    IDLE: ClassVar[dict[str, tuple[str, Callable[[Any], bool]]]] = {
        "data.bands": ("model.in_chans is 3", lambda recipe: recipe.model.in_chans == 3),
        "optim.step_epochs": ("optim.schedule is not steps", lambda recipe: recipe.optim.schedule != "steps"),
        "optim.decay_epochs": ("optim.schedule is not constant", lambda recipe: recipe.optim.schedule != "constant"),
        "optim.final_lr": ("optim.schedule is steps", lambda recipe: recipe.optim.schedule == "steps"),
        "optim.warmup_lr": ("optim.warmup_epochs is 0", lambda recipe: not recipe.optim.warmup_epochs),
    }
    task: str = ""
    seed: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    data: Any = field(default_factory=DataOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)

    def check_given(self, keys: Collection[str]) -> None:
        """Raise ValueError for a key given on the command line that has no effect in this recipe."""
        source = self.data.source
        for key in keys:
            for start, (words, idle) in self.IDLE.items():
                if f"{key}.".startswith(f"{start}.") and idle(self):
                    raise ValueError(f"{key} has no effect where {words}: change that, or leave it out")
            section, _, name = key.partition(".")
            named = [one for one in (name, name.partition(".")[0]) if one in self.data.READ_BY]
            if section != "data" or not named:
                continue
            readers = self.data.READ_BY[named[0]]
            if source == "digit_scenes" if readers is None else source not in readers:
                known = "your own images" if readers is None else " or ".join(readers)
                raise ValueError(
                    f"{key} means nothing where data.source is {source}; it is for {known}: set --data.source, or "
                    "leave it out"
                )

    def check_evaluated(self, keys: Collection[str]) -> None:
        """Raise ValueError for a key of the data given on the command line that evaluation does not read."""
        for key in keys:
            name = key.removeprefix("data.")
            if {name, name.partition(".")[0]} & {*self.data.TRAINING}:
                raise ValueError(f"--{key} is not followed in evaluation, as it is of training; leave it out")

    @property
    def shortcut(self) -> Callable[..., tuple[dict[str, float], str]] | None:
        """Way to fit the model without training, from recipe, data and model to metrics, in words too; None: none."""
        return None
