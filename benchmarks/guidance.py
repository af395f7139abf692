"""What guidance is worth to models trained anew with it: significance, even and random orders, by ranking and by place.

    python benchmarks/guidance.py list                               every run, and which are done
    python benchmarks/guidance.py run --data FOLDER [--hours 1]      the runs that are left, one at a time
    python benchmarks/guidance.py tables                             fills the tables of docs/significance.md

FOLDER holds `imagenette160` and `camvid11`; the digits need no data. A run trains a small model with random weights,
whose keys are spent by one order throughout, and takes three to six minutes on a core. Its result file is
`benchmarks/results/guidance/NAME.json`: recipe, seed, commit, machine, every judgement. One that is there is never made
again; a run that was killed begins anew. Within a task all arms have the same steps, the same batches for a seed, and
the same number of keys, up to two. The runs are in such an order that after each four there is a comparison.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orders
import torch
from guided_tasks import TASKS
from pages import fill, markdown, spread
from torch import nn

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "guidance"
PAGE = ROOT / "docs" / "significance.md"
SEEDS = (0, 1, 2)
ARMS = (("ranking", "significance"), ("ranking", "uniform"), ("regions", "significance"), ("regions", "uniform"))
TAUGHT = ("taught", "significance")
MORE_ARMS = (("ranking", "random"), ("regions", "random"), TAUGHT)
# What three seeds left open: more of them, for the arms of the paper's merging.
MORE_SEEDS = (3, 4, 5, 6, 7)
MORE_SEEDS_OF = {"camvid": (ARMS[0], ARMS[1], MORE_ARMS[0])}
# What is compared: the metric of the first arm less that of the second, seed by seed.
DIFFERENCES = {
    "ranking: significance less uniform": (ARMS[0], ARMS[1]),
    "regions: significance less uniform": (ARMS[2], ARMS[3]),
    "significance: regions less ranking": (ARMS[2], ARMS[0]),
    "uniform: regions less ranking": (ARMS[3], ARMS[1]),
    "ranking: significance less random": (ARMS[0], MORE_ARMS[0]),
    "regions: significance less random": (ARMS[2], MORE_ARMS[1]),
    "ranking: taught by gradients less significance": (TAUGHT, ARMS[0]),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A model trained with one way to merge and one order to spend keys by."""

    task: str
    merging: str
    order: str
    seed: int

    @property
    def name(self) -> str:
        """Of its result file."""
        return f"{self.task}_{self.merging}_{self.order}_seed{self.seed}"

    @property
    def result(self) -> Path:
        """The result file, which is there once the run is done."""
        return RESULTS / f"{self.name}.json"


def planned() -> Iterator[Run]:
    """Every run: four arms of each task with a seed, then with the next one, then the other arms, then more seeds."""
    for arms in (ARMS, MORE_ARMS):
        for seed in SEEDS:
            for task in TASKS:
                for merging, order in arms:
                    yield Run(task, merging, order, seed)
    for seed in MORE_SEEDS:
        for task, arms in MORE_SEEDS_OF.items():
            for merging, order in arms:
                yield Run(task, merging, order, seed)


def train(run: Run, data: Path, *, steps: int | None = None) -> dict[str, Any]:
    """Trains and judges; returns what the result file holds.

    Args:
        run: the run.
        data: the folder of all data sets.
        steps: fewer than the task's, to try it.
    """
    task = TASKS[run.task]
    steps = steps or task.steps
    torch.manual_seed(run.seed)
    model = task.build(run.merging)
    optimizer = torch.optim.AdamW(parameter_groups(model), task.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.lr, total_steps=steps, pct_start=0.15)
    held = contextlib.nullcontext() if run.order == "significance" else orders.held(model, run.order, seed=run.seed)
    begun, losses, judged = time.monotonic(), [], []
    with held:
        for step, (x, target) in zip(range(1, steps + 1), task.batches(data, run.seed), strict=False):
            loss = task.loss(model.train()(*x), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if step % task.judged_every == 0 or step == steps:
                with torch.no_grad():
                    metrics = task.judge(model.eval(), data)
                seconds = time.monotonic() - begun
                judged.append({"step": step, "loss": statistics.mean(losses), **metrics, "seconds": round(seconds, 1)})
                losses = []
                print("  " + ", ".join(f"{key} {value:.4g}" for key, value in judged[-1].items()), flush=True)
    return {
        **dataclasses.asdict(run),
        "recipe": {key: value for key, value in dataclasses.asdict(task).items() if key not in ("title", "shown")},
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "cpus": os.cpu_count()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "judged": judged,
    }


def parameter_groups(model: nn.Module, weight_decay: float = 0.05) -> list[dict[str, Any]]:
    """Weight decay for matrices alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1 or p.shape[0] == 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run_all(data: Path, hours: float, tasks: list[str]) -> None:
    """Makes the runs that are left, and begins none after so many hours."""
    begun = time.monotonic()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in planned():
        if run.result.is_file() or (tasks and run.task not in tasks):
            continue
        if time.monotonic() - begun > hours * 3600:
            break
        print(f"{run.name} ...", flush=True)
        content = json.dumps(train(run, data), indent=1)
        part = run.result.with_suffix(".part")
        part.write_text(content + "\n", encoding="utf-8")
        part.rename(run.result)


def value(run: Run, metric: str) -> float | None:
    """The metric at the end of a run that is done."""
    if not run.result.is_file():
        return None
    return json.loads(run.result.read_text(encoding="utf-8"))["judged"][-1][metric]


def values(task: str, arm: tuple[str, str], metric: str) -> dict[int, float]:
    """The metric of an arm by seed, of the runs that are done."""
    found = {seed: value(Run(task, *arm, seed), metric) for seed in (*SEEDS, *MORE_SEEDS)}
    return {seed: known for seed, known in found.items() if known is not None}


def difference(task: str, first: tuple[str, str], second: tuple[str, str]) -> str | None:
    """The mean difference of two arms over the seeds that both have, with its standard error; None without a seed."""
    metric = TASKS[task].metric
    a, b = values(task, first, metric), values(task, second, metric)
    pairs = [a[seed] - b[seed] for seed in a if seed in b]
    if not pairs:
        return None
    if len(pairs) == 1:
        return f"{pairs[0]:+.3f} (one seed, no uncertainty known)"
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{statistics.mean(pairs):+.3f} ± {error:.3f} ({len(pairs)} seeds)"


def worth(task: str, merging: str) -> str | None:
    """What the measured order is worth beside a uniform one, with this merging; None without a seed."""
    return difference(task, (merging, "significance"), (merging, "uniform"))


def table(name: str) -> str:
    """A task's arms, and their differences seed by seed."""
    task = TASKS[name]
    arms = []
    for arm in (*ARMS, *MORE_ARMS):
        cells = [spread([*values(name, arm, metric).values()], ".3f") for metric in task.shown]
        if any(cells):
            arms.append([*arm, *cells])
    known = [(what, found) for what, pair in DIFFERENCES.items() if (found := difference(name, *pair)) is not None]
    of_arms = markdown(["Merging", "Order", *task.shown.values()], arms)
    return f"*{task.title}*\n\n{of_arms}\n{markdown(['Difference', task.shown[task.metric]], known)}"


def tables() -> None:
    """Fills the mark in the page with the tables of tasks that have runs."""
    done = [name for name in TASKS if any(run.task == name and run.result.is_file() for run in planned())]
    filled = "\n".join(table(name) for name in done) or "There are no such runs yet.\n"
    fill(PAGE, "trained", f"\n{filled}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["list", "run", "tables"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--tasks", nargs="*", default=[], choices=list(TASKS), help="all if not given")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.verb == "run":
        run_all(arguments.data, arguments.hours, arguments.tasks)
    elif arguments.verb == "list":
        for run in planned():
            print(f"{run.name}: {'done' if run.result.is_file() else 'left'}")
    else:
        tables()


if __name__ == "__main__":
    sys.exit(main())
