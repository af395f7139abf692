"""Fewer threads for a run on a CPU where other programs keep cores busy.

PyTorch divides an operation into as many like parts as it has threads, and all wait for the slowest, busily. Where
another program has the core of one, the others burn theirs until it is back, hundreds of times in the step of a small
model. With a thread less nobody waits.
"""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from .run_folder import say

# Between two looks: so long at first, twice as long each time that nothing changed, at most so long.
SECONDS, MAX_SECONDS = 4.0, 64.0
# A step is slow that takes so many times as long as the median of the last ones, this many.
SLOW, NUM_STEPS = 2.0, 20
# Threads wait where each does this many times as much if they are fewer; and would not, where each does at most so many
# times less if they are more. Beside one busy program on two cores it is 2 and more, on quiet ones 1.1.
WAIT, WOULD_NOT_WAIT = 1.8, 1.5
# A look takes so many samples of this length for each number of threads, in turns.
SAMPLES, SAMPLE_SECONDS = 3, 0.02
NUMBERS_A_THREAD = 2**16  # which take about as long as an operation of a small model: 70 microseconds


class ChooseThreads(Callback):
    """Looks before a step, now and then and where steps have become slow, how many threads do not wait for each other.

    It times operations of its own, not steps, so that on a quiet machine a run computes with the same number all along,
    and is repeatable to the last bit. It leaves runs of several processes, on other devices, or with
    ``OMP_NUM_THREADS`` in the environment alone, and the number as it was at the end.
    ``rate`` gives the operations a second of so many threads, each with a part of the same size.
    """

    def __init__(
        self, rate: Callable[[int], float] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.rate, self.clock = rate or operations_a_second, clock
        self.most = self.threads = 1
        self.looked = self.stepped = 0.0
        self.pause = SECONDS  # from the last look to the next
        self.steps: deque[float] = deque(maxlen=NUM_STEPS)  # seconds that the last ones took
        self.said = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns how many threads there are to choose from."""
        fixed = "OMP_NUM_THREADS" in os.environ or trainer.world_size > 1 or pl_module.device.type != "cpu"
        self.most = self.threads = 1 if fixed else torch.get_num_threads()
        self.looked = self.stepped = self.clock()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks for the best number of threads before a training step, where it is time."""
        self.before_step()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks for the best number of threads before a validation step, where it is time."""
        self.before_step()

    def before_step(self) -> None:
        """Looks, where it is time, and has PyTorch compute with what it found."""
        if self.most == 1:
            return
        now = self.clock()
        seconds, self.stepped = now - self.stepped, now
        slow = bool(self.steps) and seconds > SLOW * statistics.median(self.steps)
        self.steps.append(seconds)
        if now - self.looked < (SECONDS if slow else self.pause):
            return
        found = self._best()
        torch.set_num_threads(found)
        if found == self.threads:
            self.pause = min(2 * self.pause, MAX_SECONDS)
        else:
            self.pause, self.threads = SECONDS, found
            self.steps.clear()
            if found < self.most and not self.said:
                say(f"other work keeps cores busy: {found} of {self.most} threads compute, until it is over")
                self.said = True
        self.looked = self.stepped = self.clock()

    def _best(self) -> int:
        """The number of threads near the one now that does most, of those that do not wait."""
        threads = self.threads
        near = {threads, threads - 1, threads + 1, threads // 2, 2 * threads} & set(range(1, self.most + 1))
        rates = self._rates(sorted(near))
        fewer = [n for n in near if n < threads and rates[n] > WAIT * rates[threads]]
        more = [n for n in near if n > threads and rates[n] * WOULD_NOT_WAIT > rates[threads]]
        return max(fewer or more or [threads], key=lambda n: n * rates[n])

    def _rates(self, numbers: list[int]) -> dict[int, float]:
        samples = [[self.rate(number) for number in numbers] for _ in range(SAMPLES)]
        return dict(zip(numbers, map(statistics.median, zip(*samples, strict=True)), strict=True))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the number of threads as it was before the run."""
        if self.most > 1:
            torch.set_num_threads(self.most)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the number of threads as it was, also where a run fails."""
        self.on_fit_end(trainer, pl_module)


def operations_a_second(threads: int) -> float:
    """Measure operations a second by so many threads, each with a part of the same size."""
    torch.set_num_threads(threads)
    x = torch.ones(threads * NUMBERS_A_THREAD)
    torch.erf_(x)  # threads may have to begin
    number, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SAMPLE_SECONDS:
        torch.erf_(x)
        number += 1
    return number / seconds
