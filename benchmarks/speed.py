"""The runs of `sgformer benchmark` behind docs/benchmarks.md, and the tables that it shows of them.

    python benchmarks/speed.py run NAME...    measure; each takes up to three minutes on two quiet cores
    python benchmarks/speed.py tables         result files become tables, where the marks are

The names are those in `RUNS`. A result file is `results/<name>_<device>_<threads>threads_torch<version>_<date>.csv`;
machine and protocol are in the JSON file next to it. A mark is a pair of comments, `<!-- speed:NAME -->` and
`<!-- /speed:NAME -->`; between them goes the newest result of that name from each machine.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from pages import fill, machine, newest, protocol

from sgformer.commands.benchmark import benchmark

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

OURS, SWIN, CONVNEXT = "sgformer_s", "swin_tiny_patch4_window7_224", "convnext_tiny"
ALL = [OURS, SWIN, CONVNEXT]
LARGE = [OURS, f"{OURS}@196", SWIN, CONVNEXT]
CPU: dict[str, Any] = {"device": "cpu", "threads": 2, "float32": "both"}
TIMES: dict[str, Any] = {**CPU, "memory": False}
COMPANY: dict[str, Any] = {**TIMES, "models": LARGE[:3], "size": [1344], "rounds": 1, "float32": "fast"}
MEMORY: dict[str, Any] = {"device": "cpu", "threads": 1, "float32": "default", "time": False}
GPU: dict[str, Any] = {"device": "cuda", "dtype": ["bfloat16"], "compile": "yes", "together": True}
BOTH = ["inference", "training"]
FAST = "fast"
RUNS: dict[str, dict[str, Any]] = {
    "one224": {"models": ALL, "rounds": 9, **TIMES},
    "inference224": {"models": ALL, "batch_size": 4, "rounds": 9, **CPU},
    "inference1344": {"models": LARGE, "size": [1344], "rounds": 3, **CPU},
    "fair1344": {"models": LARGE, "size": [1344], "rounds": 2, **TIMES, "float32": "fast"},
    "given1344": {"models": LARGE, "size": [1344], "rounds": 2, **TIMES, "float32": "fast", "keep_memory": False},
    "half1344": {**COMPANY, "neighbours": 0.5},
    "neighbour1344": {**COMPANY, "neighbours": 1},
    "neighbours1344": {**COMPANY, "neighbours": 2},
    "growth": {"models": [f"{OURS}@196"], "size": [512, 1024, 2048], "rounds": 3, **CPU, "float32": "fast"},
    "training224": {"models": [OURS, SWIN], "batch_size": 8, "mode": ["training"], "rounds": 3, **TIMES},
    "compiled224": {"models": ALL, "batch_size": 4, "compile": "yes", **TIMES, "float32": "fast"},
    "precision224": {"models": [OURS], "batch_size": 4, "dtype": ["float32", "bfloat16"], **TIMES},
    "memory1344": {"models": LARGE, "size": [1344], **MEMORY},
    "memory224training": {"models": ALL, "batch_size": 8, "mode": ["training"], **MEMORY},
    "gpu224": {"models": [OURS, SWIN], "batch_size": 128, "mode": BOTH, **GPU},
    "gpu1024": {"models": [f"{OURS}@196", SWIN], "size": [1024], "batch_size": 8, "mode": BOTH, **GPU},
}
HEAD = (
    "| Model | Images a step | Mode, dtype | Products | Seconds a step: median (quartiles) | Images / s "
    "| Speed over fair Swin-T | Peak memory, MB | GMACs | Parameters |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def row(cells: dict[str, str], fair: float | None) -> str:
    """A line of a result file as a line of a table; `fair` is Swin-T's seconds, the better of the two settings."""
    spread = f"{cells['seconds_median']} ({cells['seconds_q25']} to {cells['seconds_q75']})"
    how = f"{cells['mode']}, {cells['dtype']}" + (", compiled" if cells["compiled"] == "True" else "")
    line = [f"`{cells['model']}`", f"{cells['batch_size']} of {cells['height']}x{cells['width']}", how]
    line += [cells.get("float32", "default"), spread if cells["seconds_median"] else "", cells["images_per_second"]]
    line += [f"{fair / float(cells['seconds_median']):.2f}" if fair and cells["seconds_median"] else ""]
    return f"| {' | '.join([*line, cells['peak_memory_mb'], cells['gmacs'], cells['mparams'] + 'M'])} |\n"


def rows(path: Path) -> str:
    """The lines of a result file."""
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    fair: dict[tuple[str, ...], float] = {}
    for cells in lines:
        if cells["model"] == SWIN and cells["seconds_median"] and FAST in {line.get("float32") for line in lines}:
            seconds = float(cells["seconds_median"])
            fair[_case(cells)] = min(seconds, fair.get(_case(cells), seconds))
    return "".join(row(cells, fair.get(_case(cells))) for cells in lines)


def _case(cells: dict[str, str]) -> tuple[str, ...]:
    return tuple(cells[name] for name in ("height", "width", "batch_size", "mode", "dtype", "compiled"))


def table(name: str) -> str:
    """The newest result of a name from each machine, with its protocol; or a sentence that there is none."""
    found = newest(RESULTS.glob(f"{name}_*threads_torch*.csv"))
    if not found:
        return f"Not measured yet: `python benchmarks/speed.py run {name}`.\n"
    tables = []
    for path in found:
        said = protocol(path)
        commit = said["git_commit"][:7] + (" and changes" if said["git_changes"] else "")
        note = f"`{path.name}`: {machine(path)}, threads: {said['num_threads']}, commit {commit}"
        if number := said.get("neighbours"):
            note += f", busy neighbours: {number:g}"
        if kernels := said.get("kernels"):
            note += f"; kernels in C++ for `fast` rows of this package's models: {kernels}"
        if memory := said.get("freed_memory"):
            note += f"; freed memory is {memory}"
        note += "."
        tables.append(f"{HEAD}{rows(path)}\n{note}\n")
    return "\n".join(tables)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and sys.argv[2:] and set(sys.argv[2:]) <= RUNS.keys():
        for run in sys.argv[2:]:
            benchmark(**RUNS[run], out=RESULTS, label=run)
    elif sys.argv[1:] == ["tables"]:
        fill(PAGE, r"speed:(\w+)", table)
    else:
        sys.exit(f"{__doc__}\nnames: {', '.join(RUNS)}")
