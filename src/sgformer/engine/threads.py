"""Fewer threads for steps on a CPU where other programs keep cores busy.

PyTorch divides an operation into as many like parts as it has threads, and all wait for the slowest, busily. Where
another program has the core of one, the others burn theirs until it is back, hundreds of times in the step of a small
model. With a thread less nobody waits.
"""

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

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


class Threads:
    """Looks before a step, now and then and where steps have become slow, how many threads do not wait for each other.

    It times operations of its own, not steps, so that on a quiet machine all steps are computed with the same number,
    and are repeatable to the last bit. It tells by ``say`` when there are fewer for the first time. ``rate`` gives the
    operations a second of so many threads, each with a part of the same size.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        rate: Callable[[int], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.say, self.rate, self.clock = say, rate or operations_a_second, clock
        self.most = self.threads = 1
        self.looked = self.stepped = 0.0
        self.pause = SECONDS  # from the last look to the next
        self.steps: deque[float] = deque(maxlen=NUM_STEPS)  # seconds that the last ones took
        self.said = False

    def start(self, device: torch.device, world_size: int = 1) -> None:
        """Learns how many threads there are to choose from.

        One of several processes, other devices, and a number of threads in the environment are left alone.
        """
        fixed = "OMP_NUM_THREADS" in os.environ or world_size > 1 or device.type != "cpu"
        self.most = self.threads = 1 if fixed else torch.get_num_threads()
        self.looked = self.stepped = self.clock()

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
                self.say(f"other work keeps cores busy: {found} of {self.most} threads compute, until it is over")
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

    def stop(self) -> None:
        """Leaves the number of threads as it was at the start."""
        if self.most > 1:
            torch.set_num_threads(self.most)


@contextmanager
def choosing(device: torch.device, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Chooses, within this context, the number of threads for steps on a device: those that do not wait for each other.

    It gives what is to be called before each step. The first call looks at once, since a step may take minutes.
    """
    threads = Threads(say)
    threads.start(device)
    threads.looked -= SECONDS
    try:
        yield threads.before_step
    finally:
        threads.stop()


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
