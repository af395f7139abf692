"""Images a second of `sgformer train` beside other programs, with all threads and with as many as it chooses.

    python benchmarks/busy_training.py          measure, eight minutes on two cores, and fill the table
    python benchmarks/busy_training.py tables   the newest result file becomes the table of docs/training.md

A neighbour is a process that keeps a core busy; one that goes first has the higher priority (nice 0 beside 5). Each
case trains for some seconds in a process of its own, by the recipe but for its length; the first seconds do not count.
The numbers go to `results/busy_training_cpu_<threads>threads_torch<version>_<date>.csv`, with the
machine in the JSON file next to it.
"""

import csv
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import fill, markdown

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "training.md"
COMPANY = ("none", "a neighbour", "a neighbour that goes first")
CASES = [
    *(("classification/digit_scenes", model, each) for model in ("sgformer_test", "resnet10t") for each in COMPANY),
    *((f"{task}/smoke", "sgformer_test", each) for task in ("segmentation", "detection") for each in COMPANY[:2]),
]
THREADS = ("all", "chosen")
WARM_UP, SECONDS = 6, 4  # until it has looked around, and as long as is counted


def measure(recipe: str, model: str, company: str) -> float:
    """Images a second of a run."""
    import lightning.pytorch as pl

    from sgformer import tasks
    from sgformer.benchmark.machine_load import Neighbours
    from sgformer.engine import fit
    from sgformer.engine import recipe as recipes

    class Count(pl.Callback):
        begun = seconds = 0.0
        images = 0

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            now = time.perf_counter()
            self.begun = self.begun or now
            if now - self.begun > WARM_UP:
                self.images += len(batch[0]) if self.seconds else 0
                self.first = self.first if self.seconds else now
                self.seconds = max(now - self.first, 1e-9)
            trainer.should_stop = self.seconds > SECONDS

    neighbours = Neighbours(0 if company == "none" else 1)
    with neighbours, tempfile.TemporaryDirectory() as folder:
        if company.endswith("first"):
            os.nice(5)
        changes = {"model.name": model, "trainer.max_epochs": 1000, "trainer.limit_val_batches": 0}
        path, count = recipes.find(recipe), Count()
        of_task = tasks.get(recipes.task_of(path))
        parsed: Any = recipes.parse(path, of_task.Recipe, changes)
        task, data = of_task.build(parsed)
        fit.fit(task, data, parsed.trainer, Path(folder), recipe={}, watchers=[count])
    return count.images / count.seconds


def run() -> None:
    """All cases, one after another, to a result file."""
    import torch

    from sgformer.engine.environment import environment

    rows = []
    for recipe, model, company in CASES:
        row = {"recipe": recipe, "model": model, "company": company}
        for threads in THREADS:
            environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
            environ |= {"OMP_NUM_THREADS": str(os.cpu_count())} if threads == "all" else {}
            command = [sys.executable, __file__, "case", recipe, model, company]
            done = subprocess.run(command, capture_output=True, text=True, env=environ)
            if done.returncode:
                sys.exit(done.stderr)
            row[threads] = f"{json.loads(done.stdout.splitlines()[-1]):.3g}"
        rows.append(row)
        print(*row.values(), sep="\t", flush=True)
    version = torch.__version__.split("+")[0]
    name = f"busy_training_cpu_{os.cpu_count()}threads_torch{version}_{datetime.date.today()}.csv"
    with (RESULTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    known = environment()
    machine = {key: known[key] for key in ("date", "processor", "num_cpus", "git_commit", "git_changes")}
    (RESULTS / name).with_suffix(".json").write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")


def tables() -> None:
    """Fills the mark of the page from the newest result file."""
    path = max(RESULTS.glob("busy_training_*.csv"), key=lambda path: path.stem[-10:])
    with path.open(encoding="utf-8") as file:
        rows = [[f"`{row['recipe']}`", f"`{row['model']}`", *list(row.values())[2:]] for row in csv.DictReader(file)]
    heads = ["Recipe", "Model", "Company", "Images/s with all threads", "with as many as it chooses"]
    fill(PAGE, "busy_training", f"{markdown(heads, rows)}\n`{path.name}`\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        print(json.dumps(measure(*sys.argv[2:])))
    elif sys.argv[1:] == ["tables"]:
        tables()
    elif not sys.argv[1:]:
        run()
        tables()
    else:
        sys.exit(__doc__)
