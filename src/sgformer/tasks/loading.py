"""Data loaders, each for its process's share of a data set, and batches that tell which images were unreadable."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from ..engine import devices
from ..engine.sampling import Draw, EpochSampler, TrainLoader, seeded
from .errors import DataError
from .folders import Split
from .images import NAMELESS, ImageError


class Unreadable(NamedTuple):
    """Placeholder for a sample whose image cannot be read."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"left out: {self.path}: {self.reason}"


class Batch(NamedTuple):
    """Images with what is in them, and those left out, which `engine.callbacks.CountUnreadable` names and counts."""

    images: Any  # (B, 3, height, width), or a list where sizes differ; B is 0 where none could be read
    targets: Any  # class indices (B,), masks (B, height, width), or a list of what is in each image
    unreadable: tuple[Unreadable, ...] = ()


class Samples(Dataset[Any]):
    """Images with their targets, read one by one, and augmented for training; `Unreadable` for one that cannot be read.

    ``source`` has a length, and gives a pair by number, or an ImageError. ``vary`` makes a sample of image, target and
    the seed that all of a batch share; None: the pair is the sample.
    """

    def __init__(self, source: Any, vary: Callable[[Any, Any, int | None], Any] | None = None) -> None:
        self.source, self.vary = source, vary

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int | Draw) -> Any:
        batch_seed = index.batch_seed if isinstance(index, Draw) else None
        number = seeded(index)
        try:
            image, target = self.source[number]
        except ImageError as error:
            name = f"number {number}" if error.path in NAMELESS else error.path
            name = name.encode("utf-8", "backslashreplace").decode()  # whatever bytes are in it
            return Unreadable(name, error.reason)
        return self.vary(image, target, batch_seed) if self.vary else (image, target)


def collate_listed(samples: list[Any]) -> Batch:
    """A batch of two lists, of images of any sizes and of what is in each."""
    unreadable = tuple(sample for sample in samples if isinstance(sample, Unreadable))
    readable = [sample for sample in samples if not isinstance(sample, Unreadable)]
    return Batch([image for image, _ in readable], [target for _, target in readable], unreadable)


def collate_readable(samples: list[Any]) -> Batch:
    """A batch of two tensors, of images of one size and of their targets."""
    images, targets, unreadable = collate_listed(samples)
    if not images:
        return Batch(torch.empty(0, 3, 1, 1), torch.empty(0, dtype=torch.int64), unreadable)
    return Batch(default_collate(images), default_collate(targets), unreadable)


def make_loader(
    dataset: Dataset[Any],
    split: Split,
    *,
    batch_size: int,
    workers: int | None,
    seed: int = 0,
    trainer: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    likeness: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> DataLoader[Any]:
    """Batches of this process's share of a data set.

    Training asks the data set for a `Draw`, in an order that follows from the seed and the epoch; what does not fill a
    batch for every process waits for another epoch. Validation asks for each index once, over all processes, of which
    Lightning's ``trainer`` knows the number; without one there is one. ``batch_size`` is that of all together,
    ``workers`` are processes that prepare samples (None: as many as suit the machine). For the rest see `EpochSampler`.
    ValueError where there are fewer samples than processes, or these cannot share a batch equally.
    """
    rank, num_processes = share(trainer)
    train = split == "train"
    batch_size = devices.share(batch_size, num_processes) if train else max(batch_size // num_processes, 1)
    workers = suitable_workers() if workers is None else workers
    kwargs: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate,
    }
    if isinstance(dataset, IterableDataset):  # which knows its process's share itself
        return DataLoader(dataset, batch_size=batch_size, drop_last=train, **kwargs)
    length = len(cast(Any, dataset))
    # Lightning lets a process without any skip the end of validation; the others would wait for it.
    if length < num_processes:
        purpose = "training" if train else "validation"
        raise DataError(
            f"there are {num_processes} processes and only {length} images for {purpose}; "
            f"set --trainer.devices {max(length, 1)} or less"
        )
    if train:
        # A data set smaller than a batch is one batch, of an even number for mixup.
        size = min(batch_size, max(length // num_processes // 2 * 2, 1))
        sampler = EpochSampler(
            length,
            batch_size=size,
            seed=seed,
            rank=rank,
            num_processes=num_processes,
            likeness=likeness,
            weights=weights,
        )
        # Data workers start before Lightning calls `set_epoch`.
        sampler.set_epoch(epoch_to_come(trainer))
        return TrainLoader(dataset, sampler, **kwargs)
    # Every num_processes-th sample: each is judged once, by one process.
    mine = Subset(dataset, range(rank, length, num_processes))
    return DataLoader(mine, batch_size=batch_size, **kwargs)


def nothing_read(model: nn.Module, images: Sequence[Any] | Tensor, *, wait: bool = False) -> bool:
    """Tell whether a step has nothing to learn from: no image of this process's share could be read.

    Where the model's batch norms take mean and variance over all processes, or something else in it waits for all
    (``wait``), one process without an image is enough, and all of them leave the step out.
    """
    if not (wait or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())):
        return not len(images)
    empty = torch.tensor(float(not len(images)), device=next(model.parameters()).device)
    return bool(devices.mean_over_processes(empty) > 0)


def share(trainer: Any) -> tuple[int, int]:
    """Return this process's rank and the number of processes; the only one before there is a trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)


def epoch_to_come(trainer: Any) -> int:
    """The number of the epoch that is trained next, from 0 on; also of a run that is resumed."""
    return trainer.fit_loop.epoch_progress.current.processed if trainer else 0


def suitable_workers() -> int:
    """Choose how many data-loader workers read images on this machine.

    Beside a GPU, one per core, up to 16. Without one the cores are busy training: half of them, and none of two, where
    a second process would only take turns with the training.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        return min(cores, 16)
    return cores // 2 if cores > 2 else 0


def spread(length: int, num: int) -> list[int]:
    """Up to ``num`` of the numbers below ``length``, evenly spread, from 0 on.

    Example:
        >>> spread(100, 4), spread(2, 4)
        ([0, 25, 50, 75], [0, 1])
    """
    num = min(num, length)
    return [i * length // num for i in range(num)]
