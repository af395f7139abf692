"""Load on the machine while models are timed: other programs, and neighbours started on request."""

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

# From so many busy cores on, ratios of models are not those of a quiet machine.
MAX_BUSY = 0.25
# A neighbour by half works so long, and sleeps as long: longer than a turn of the scheduler, much shorter than a step.
TURN_SECONDS = 0.01

_BUSY = "while True: pass"
_PARTLY = """
import sys, time
work, sleep = float(sys.argv[1]), float(sys.argv[2])
while True:
    end = time.perf_counter() + work
    while time.perf_counter() < end: pass
    time.sleep(sleep)
"""


class Neighbours(AbstractContextManager["Neighbours"]):
    """Processes that each keep a core busy while the context lasts; of a fraction, one that sleeps part of the time."""

    def __init__(self, number: float) -> None:
        self.number = number
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        whole, part = divmod(self.number, 1)
        commands = [[_BUSY]] * int(whole)
        if part:
            commands.append([_PARTLY, str(TURN_SECONDS), str(TURN_SECONDS * (1 - part) / part)])
        self._processes = [subprocess.Popen([sys.executable, "-c", *command]) for command in commands]
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def busy_cores(seconds: float = 0.5) -> float | None:
    """Count the cores of the machine that are busy while this process sleeps; None where the system does not say."""
    before = _ticks()
    if before is None:
        return None
    time.sleep(seconds)
    after = _ticks()
    assert after is not None
    return (after - before) / os.sysconf("SC_CLK_TCK") / seconds


def warning(busy: float | None) -> str | None:
    """A warning where the machine is busy; None where it is quiet."""
    if busy is None or busy < MAX_BUSY:
        return None
    return (
        f"other programs keep {busy:.1f} of {os.cpu_count()} cores busy: times are longer and vary more than on a "
        "quiet machine, and not alike for all models"
    )


def _ticks() -> int | None:
    """Busy time of all cores together, in the system's ticks; Linux only."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return user + nice + system + irq + softirq + steal
