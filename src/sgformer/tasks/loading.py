"""What the data of all tasks share: loaders that know their process's share, and errors that name the remedy."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from ..engine.sampling import EpochSampler, TrainLoader


class DataError(ValueError):
    """Data that cannot be learned from, with the reason and the remedy."""


def make_loader(
    dataset: Dataset[Any],
    split: Literal["train", "val"],
    *,
    batch_size: int,
    workers: int | None,
    seed: int = 0,
    trainer: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """Batches of this process's share of a data set.

    Training asks the data set for a `Draw`, in an order that follows from the seed and the epoch; what does not fill
    a batch for every process waits for another epoch. Validation asks for each index once, over all processes.

    Args:
        dataset: Has a length, takes an index or a `Draw`.
        split: For training or for validation.
        batch_size: Samples per batch and process.
        workers: Processes that prepare samples; None: as many as suit the machine.
        seed: Where order and variation start.
        trainer: Lightning's, which knows how many processes there are; None: one.
        collate: How samples become a batch; None: stacked.
    """
    length = len(cast(Any, dataset))
    rank, num_processes = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    workers = suitable_workers() if workers is None else workers
    kwargs: dict[str, Any] = {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "collate_fn": collate,
    }
    if split == "train":
        # A data set smaller than a batch is one batch, of an even number for mixup.
        size = min(batch_size, max(length // num_processes // 2 * 2, 1))
        sampler = EpochSampler(length, batch_size=size, seed=seed, rank=rank, num_processes=num_processes)
        return TrainLoader(dataset, sampler, **kwargs)
    # Every num_processes-th sample: each is judged once, by one process.
    mine = Subset(dataset, range(rank, length, num_processes))
    return DataLoader(mine, batch_size=batch_size, **kwargs)


def suitable_workers() -> int:
    """How many processes should read pictures on this machine.

    Beside a GPU, one per core, up to 16. Without one the cores are busy training: half of them, and none of
    two, where a second process would only take turns with the training.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        return min(cores, 16)
    return cores // 2 if cores > 2 else 0


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or both."""
    return (size, size) if isinstance(size, int) else size


def listed(names: Iterable[str]) -> str:
    """The first five names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
