"""The order of training samples as a function of seed, epoch and position, so that a run can go on from any batch.

Nothing here keeps the state of a random generator. Each epoch's order follows from ``(seed, epoch)``, the augmentation
of a sample from ``(seed, epoch, index)``, and what a step draws (drop path, mixup) from
``(seed, epoch, batch, process)``. So neither the number of data workers nor an interruption changes what is trained on.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

# Like samples are looked for within so many batches: enough to find them, few enough for another mixture each epoch.
POOL = 16


class Draw(NamedTuple):
    """Index of a training data set: a sample, and the seed of its augmentation."""

    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (tuples have a method of this name)
    seed: int
    batch_seed: int | None = None  # of what all samples of a batch must share, such as a size


def fold(*numbers: int) -> int:
    """Fold several numbers into one seed of 32 bits, unlike for all that differ.

    Example:
        >>> fold(0, 1) != fold(1, 0)
        True
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Start the generators of Python, NumPy and PyTorch, those of all devices, which models draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_sample(seed: int) -> None:
    """Seed the generators for a sample, which is prepared on the CPU.

    Those of GPUs are left alone: `torch.manual_seed` takes milliseconds for them, longer than to decode a small image.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def seeded(index: int | Draw) -> int:
    """Take the number of the sample that is asked for; in training, seed the generators for it first."""
    if isinstance(index, Draw):
        seed_sample(index.seed)
        return index.index
    return index


class EpochSampler(Sampler[Draw]):
    """The samples of one process in each epoch.

    A batch of all processes together is a stretch of the epoch's order, and each process takes its share of it. So two
    processes with batches of 16 see what one process sees with batches of 32. Samples at the end of the order that do
    not fill a batch for every process are left out of the epoch.

    The ``batch_size`` is per process. ``likeness`` is a number for each sample: those with near numbers share a batch,
    and a ``batch_seed``. ``weights`` say how often each is drawn in an epoch, relative to the others.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_processes: int = 1,
        likeness: Sequence[float] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.likeness = None if likeness is None else torch.tensor(likeness, dtype=torch.float64)
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.rank, self.num_processes = rank, num_processes
        self.epoch = self.first_batch = 0

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return self.length // (self.batch_size * self.num_processes)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[Draw]:
        # A list, not a generator: a loader with workers asks for it before the epoch begins, one without after.
        generator = torch.Generator().manual_seed(fold(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        if self.weights is not None:
            order = _drawn_by_weight(order, self.weights, generator)
        width = self.num_processes * self.batch_size
        batches = order[: self.num_batches * width].view(self.num_batches, width)
        if self.likeness is not None:
            batches = _like_together(batches, self.likeness, generator)
        mine = batches.view(self.num_batches, self.num_processes, self.batch_size)[:, self.rank].tolist()
        draws = []
        for number in range(self.first_batch, self.num_batches):
            shared = None if self.likeness is None else fold(self.seed, self.epoch, number, 1)
            for place, index in enumerate(mine[number]):
                # A sample that comes more than once in an epoch is varied anew each time.
                again = () if self.weights is None else (number, self.rank, place)
                draws.append(Draw(index, fold(self.seed, self.epoch, index, *again), shared))
        return iter(draws)


def _drawn_by_weight(order: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many samples, each as often as its weight says: at even distances along the sum of the sorted weights."""
    order = order[weights[order].argsort(stable=True)]  # so that the numbers of each weight hardly vary, too
    ends = weights[order].cumsum(0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(len(order), dtype=torch.float64) + start) * (ends[-1] / len(order))
    taken = order[torch.searchsorted(ends, places, right=True).clamp(max=len(order) - 1)]
    return taken[torch.randperm(len(taken), generator=generator)]


def _like_together(batches: Tensor, likeness: Tensor, generator: torch.Generator) -> Tensor:
    """Sort samples by likeness within a pool of (batches, samples), then mix the batches again."""
    pools = []
    for pool in batches.split(POOL):
        indices = pool.flatten()
        # A stable sort leaves samples that are alike in their mixed order.
        pools.append(indices[likeness[indices].argsort(stable=True)].view_as(pool))
    return torch.cat(pools)[torch.randperm(len(batches), generator=generator)]


class TrainLoader(DataLoader[Any]):
    """Batches in the order of an `EpochSampler`, which knows where it is and can go on from there.

    Lightning finds ``state_dict`` and ``load_state_dict`` and keeps them in its checkpoints.
    """

    def __init__(self, dataset: Dataset[Any], sampler: EpochSampler, **kwargs: Any) -> None:
        super().__init__(dataset, batch_size=sampler.batch_size, sampler=sampler, drop_last=True, **kwargs)
        self.order = sampler
        self.num_taken = 0

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.num_taken = self.order.first_batch
        return self._count(super().__iter__())

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.num_taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were taken."""
        return {"epoch": self.order.epoch, "num_taken": self.num_taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on with the next batch, which may be the first of the next epoch."""
        epoch, num_taken = state_dict["epoch"], state_dict["num_taken"]
        if num_taken >= self.order.num_batches:
            epoch, num_taken = epoch + 1, 0
        self.order.epoch, self.order.first_batch = epoch, num_taken
