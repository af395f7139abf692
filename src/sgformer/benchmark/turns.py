"""Interleaved measurement of several cases, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .machine_load import Neighbours
from .measure import Case

# A sample lasts at least this long, by as many steps as that takes; the clock and the scheduler then matter little.
MIN_SECONDS = 0.1
# Between two turns: the threads of the process before still look for work for a while.
PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Measured:
    """Times and memory measured for a case."""

    samples: list[float]  # seconds a step, a sample a round
    peak_memory_mb: float | None  # megabytes (2^20 bytes) that a step takes, where the system reports it


class Worker:
    """A process that measures one case, by so many CPU threads; as a context, it ends with it."""

    def __init__(self, case: Case, *, threads: int) -> None:
        self.case = case
        command = [sys.executable, "-m", "sgformer.benchmark.worker", json.dumps(asdict(case)), str(threads)]
        # Where the process finds this very package.
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,  # a pipe that nobody reads would fill up, and stop the process
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def peak_memory(self) -> float | None:
        """Waits for the first step, and returns the megabytes that it took; ValueError where that is not possible."""
        return self._answer()["peak_memory_mb"]

    def seconds(self, repeats: int) -> float:
        """Mean seconds of a step over some in a row."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        return self._answer()["seconds"] / repeats

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines() or [f"exit code {self._process.returncode}"]
            raise RuntimeError(f"the process that measures {self.case.model} ended: {lines[-1]}")
        answer = json.loads(line)
        if "error" in answer:
            size = f"{self.case.batch_size}x{self.case.height}x{self.case.width}"
            raise ValueError(f"{self.case.model} cannot take a step of {size}: {answer['error']}")
        return answer


def measure_in_turns(
    groups: Sequence[Sequence[Case]],
    *,
    rounds: int,
    threads: int,
    together: bool = False,
    neighbours: float = 0,
) -> Iterable[list[Measured]]:
    """Measures groups of cases one after the other; the cases of a group take turns, forth and back.

    So what disturbs the machine for a while disturbs all of a group. Of each case there are as many samples as
    `rounds`; with 0, memory alone is weighed. `together` builds and compiles the cases of all groups at the same time,
    which takes memory for all of them. ValueError where a model cannot take a step.
    """
    with ExitStack() as stack:

        def start(group: Sequence[Case], until: ExitStack) -> list[Worker]:
            return [until.enter_context(Worker(case, threads=threads)) for case in group]

        early = [start(group, stack) for group in groups] if together else []
        for i, group in enumerate(groups):
            with ExitStack() as of_group:
                workers = early[i] if together else start(group, of_group)
                yield take_turns(workers, rounds=rounds, neighbours=neighbours)


def take_turns(workers: Sequence[Worker], *, rounds: int, neighbours: float = 0) -> list[Measured]:
    """Measures what some workers have, each in its turn."""
    peaks = [worker.peak_memory() for worker in workers]  # all have built and taken a step after this
    samples: list[list[float]] = [[] for _ in workers]
    if rounds:
        with Neighbours(neighbours):
            _sample(workers, samples, rounds)
    return [Measured(of_one, peak) for of_one, peak in zip(samples, peaks, strict=True)]


def _sample(workers: Sequence[Worker], samples: list[list[float]], rounds: int) -> None:
    repeats = []
    for worker in workers:
        time.sleep(PAUSE_SECONDS)
        repeats.append(max(1, round(MIN_SECONDS / worker.seconds(1))))
    for i in range(rounds):
        order = range(len(workers)) if i % 2 == 0 else range(len(workers) - 1, -1, -1)
        for j in order:
            time.sleep(PAUSE_SECONDS)
            samples[j].append(workers[j].seconds(repeats[j]))
