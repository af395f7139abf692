"""What a training step is made of, beside Swin-T: `python benchmarks/profile_training.py [THREADS]`.

Forward and backward pass of `sgformer_s` and Swin-T, eight pictures of 224x224 in float32, by kind of operation, from
PyTorch's profiler; the optimizer's step is left out. Products are linear layers, attention and all convolutions but the
depthwise ones. Writes `results/profile_training_cpu_<threads>threads_torch<version>_<date>.csv` and the table between
the marks in `docs/benchmarks.md`.
"""

import csv
import datetime
import json
import re
import sys
from collections import Counter
from pathlib import Path

import timm
import torch
from profile_stages import KINDS, kind_of
from torch.profiler import ProfilerActivity, profile

import sgformer  # noqa: F401  registers the models
from sgformer.engine.fit import describe_environment

ROOT = Path(__file__).parents[1]
MODELS = ["sgformer_s", "swin_tiny_patch4_window7_224"]
BATCH_SIZE, WARM_UP, STEPS = 8, 6, 3
COLUMNS = [*KINDS, "depthwise", "other"]


def milliseconds(model: torch.nn.Module) -> Counter[str]:
    """Time of a step by kind of operation."""
    x = torch.randn(BATCH_SIZE, 3, 224, 224)

    def step() -> None:
        model.zero_grad()
        model(x).square().mean().backward()

    for _ in range(WARM_UP):  # until the allocator has all memory that a step takes
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(STEPS):
            step()
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[kind_of(event.name, event.input_shapes)] += event.self_cpu_time_total / 1e3 / STEPS
    return spent


def main(threads: int) -> None:
    """Profiles, writes, and fills the table."""
    torch.set_num_threads(threads)
    rows = []
    for name in MODELS:
        spent = milliseconds(timm.create_model(name).train())
        row = {"model": name, **{kind: f"{spent[kind]:.0f}" for kind in COLUMNS}}
        rows.append(row | {"total_ms": f"{sum(spent.values()):.0f}"})
    version, date = torch.__version__.split("+")[0], datetime.date.today().isoformat()
    path = ROOT / "benchmarks/results" / f"profile_training_cpu_{threads}threads_torch{version}_{date}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = [" | ".join(["| Model", *COLUMNS, "all |"]), "|---" * (len(COLUMNS) + 2) + "|"]
    lines += [" | ".join([f"| `{row['model']}`", *list(row.values())[1:]]) + " |" for row in rows]
    machine = json.loads(describe_environment())["processor"]
    table = "\n".join([*lines, "", f"`{path.name}`: {machine}, threads: {threads}; milliseconds a step.", ""])
    page, marks = (
        ROOT / "docs" / "benchmarks.md",
        r"(<!-- profile:training -->\n).*?(<!-- /profile:training -->)",
    )
    text = re.sub(marks, rf"\g<1>{table}\g<2>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1"])[0]))
