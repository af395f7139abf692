"""The process in which one case is measured: `python -m sgformer.benchmark.worker CASE THREADS`, started by `turns.py`.

It builds the case, takes a first step, and writes a line of JSON: the peak memory of that step, or what went wrong.
After that it answers each line that it reads, a number of steps, with a line of the seconds that they took.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .measure import Case, step_of


def serve(case: Case) -> None:
    """Measures whatever is asked for on standard input."""
    try:
        step = step_of(case)
        peak = first_step(step, case.device)
    except (AssertionError, RuntimeError, ValueError) as error:
        _say({"error": " ".join(str(error).split())})
        return
    _say({"peak_memory_mb": peak})
    for line in sys.stdin:
        _say({"seconds": seconds(step, int(line), case.device)})


def first_step(step: Callable[[], None], device: str) -> float | None:
    """Takes a first step; returns the megabytes (2^20 bytes) that a step takes beyond what there was before it.

    On a CPU, peak resident memory of this process less resident memory before; None where the system does not report
    it. On a GPU, what PyTorch's allocator holds at most in a second step: what is allocated once, such as the
    optimizer's state, is not the step's.
    """
    if device.startswith("cuda"):
        step()
        gc.collect()
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    _give_back_free_memory()
    before = _resident("VmRSS")
    if before is None:
        step()
        return None
    # Building the model may have taken more for a moment than what it holds now.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    step()
    peak = _resident("VmHWM")
    return None if peak is None else (peak - before) / 1024


def seconds(step: Callable[[], None], repeats: int, device: str) -> float:
    """Seconds that some steps in a row take."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _give_back_free_memory() -> None:
    """Returns what the allocator holds but nobody uses, which would hide the first megabytes of the step."""
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library, which keeps little
        return


def _resident(field: str) -> int | None:
    """A field of Linux's account of this process, in kilobytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def _say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    serve(Case(**json.loads(sys.argv[1])))
