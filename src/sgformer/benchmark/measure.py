"""What `sgformer benchmark` measures: one case, built, timed in turns with others, weighed in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sgformer  # noqa: F401  registers the models

# A sample lasts at least this long, by as many steps as that takes; the clock and the scheduler then matter little.
MIN_SECONDS = 0.1


@dataclass(frozen=True)
class Case:
    """One model under one set of conditions.

    Attributes:
        model: a name in timm's registry; `@` and a number after it are a token budget.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        batch_size: pictures a step.
        mode: `"inference"`, or `"training"`: forward, backward and a step of AdamW.
        dtype: of the weights in inference; in training, of autocast.
        compiled: whether `torch.compile` translates the model.
        device: as torch names it.
    """

    model: str
    height: int
    width: int
    batch_size: int = 1
    mode: str = "inference"
    dtype: str = "float32"
    compiled: bool = False
    device: str = "cpu"


def create(case: Case, *, device: str | None = None) -> nn.Module:
    """The model of a case, without its head's classes changed.

    Raises:
        ValueError: if timm has no such model, or it takes no token budget.
    """
    name, at, budget = case.model.partition("@")
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; sgformer list models '*' names them all")
    options: dict[str, Any] = {}
    if at:
        if not name.startswith("sgformer") or not budget.isdigit():
            raise ValueError(
                f"{case.model!r}: a token budget is a number after @, for models of this package"
            )
        options["token_budget"] = int(budget)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        options["img_size"] = (case.height, case.width)
    return timm.create_model(name, **options).to(case.device if device is None else device)


def step_of(case: Case) -> Callable[[], None]:
    """What is timed: one step on pictures of noise, ready to be called again and again."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    model = create(case)
    pictures = torch.randn(case.batch_size, 3, case.height, case.width, device=case.device)
    if case.mode == "inference":
        model.eval().to(dtype)
        pictures = pictures.to(dtype)
        run = torch.compile(model) if case.compiled else model

        def infer() -> None:
            # Not inference mode: what was compiled in it is compiled anew outside, and it saves little.
            with torch.no_grad():
                run(pictures)

        return infer
    model.train()
    labels = torch.zeros(case.batch_size, dtype=torch.long, device=case.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    run = torch.compile(model) if case.compiled else model
    low = case.dtype != "float32"

    def train() -> None:
        with torch.autocast(case.device.split(":")[0], dtype if low else None, enabled=low):
            loss = nn.functional.cross_entropy(run(pictures).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def time_in_turns(
    cases: Sequence[Case], *, rounds: int, min_seconds: float = MIN_SECONDS
) -> list[list[float]]:
    """Seconds a step of each case, a sample a round; the cases take turns, forth and back.

    So what disturbs the machine for a while disturbs all of them.

    Raises:
        ValueError: if a model cannot take pictures of this size.
    """
    steps, repeats = [], []
    for case in cases:
        step = step_of(case)
        try:
            step()  # allocates, chooses kernels, compiles
        except (AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{case.model} cannot take a step of {case.batch_size}x{case.height}x{case.width}: {reason}"
            ) from error
        repeats.append(max(1, round(min_seconds / _seconds(step, 1, case.device))))
        steps.append(step)
    samples: list[list[float]] = [[] for _ in cases]
    for i in range(rounds):
        order = range(len(cases)) if i % 2 == 0 else range(len(cases) - 1, -1, -1)
        for j in order:
            samples[j].append(_seconds(steps[j], repeats[j], cases[j].device))
    return samples


def _seconds(step: Callable[[], None], repeats: int, device: str) -> float:
    """Seconds a step, over some in a row."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait(device)
    return (time.perf_counter() - start) / repeats


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile.

    Example:
        >>> quartiles([3.0, 1.0, 2.0, 5.0, 4.0])
        (2.0, 3.0, 4.0)
    """
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def count(case: Case) -> tuple[float, float]:
    """Millions of parameters, and GMACs a picture in inference, products inside attention included."""
    with torch.device("meta"):
        model = create(case, device="meta").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, case.height, case.width))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


def peak_memory(case: Case, *, threads: int) -> float:
    """Megabytes (2^20 bytes) that a first step takes beyond what there was before it.

    On a CPU, peak resident memory less resident memory before the step, in a fresh process. On a GPU, what PyTorch's
    allocator counts, in this process.

    Raises:
        RuntimeError: if the process fails.
    """
    if case.device.startswith("cuda"):
        step = step_of(case)
        step()  # what is allocated once, such as the optimizer's state, is not the step's
        gc.collect()
        before = torch.cuda.memory_allocated(case.device)
        torch.cuda.reset_peak_memory_stats(case.device)
        step()
        _wait(case.device)
        return (torch.cuda.max_memory_allocated(case.device) - before) / 2**20
    command = [sys.executable, "-m", "sgformer.benchmark.measure", json.dumps(asdict(case)), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": _path()})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"measuring the memory of {case.model} failed: {lines[-1]}")
    return float(done.stdout.split()[-1])


def _path() -> str:
    """Where the fresh process finds this very package."""
    return os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])


def _peak_of_this_process(case: Case, threads: int) -> float:
    """Megabytes of one step in this process, which must be fresh."""
    torch.set_num_threads(threads)
    step = step_of(case)
    gc.collect()
    _give_back_free_memory()
    before = _resident("VmRSS")
    # Building the model may have taken more for a moment than what it holds now.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    step()
    return (_resident("VmHWM") - before) / 1024


def _give_back_free_memory() -> None:
    """Returns what the allocator holds but nobody uses, which would hide the first megabytes of the step."""
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library, which keeps little
        return


def _resident(field: str) -> int:
    """A field of Linux's account of this process, in kilobytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(
        f"this system does not report {field}; measure memory on Linux, or leave it out: --no-memory"
    )


if __name__ == "__main__":
    print(_peak_of_this_process(Case(**json.loads(sys.argv[1])), int(sys.argv[2])))
