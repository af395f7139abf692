"""The runs of `sgformer benchmark` behind docs/benchmarks.md, and the tables that it shows of them.

    python benchmarks/speed.py run NAME...    measure; each takes up to three minutes on two quiet cores
    python benchmarks/speed.py tables         result files become tables, where the marks are

The names are those in `RUNS`. A result file is `results/<name>_<device>_<threads>threads_torch<version>_<date>.csv`;
machine and protocol are in the JSON file next to it. A mark is a pair of comments, `<!-- speed:NAME -->` and
`<!-- /speed:NAME -->`; between them goes the newest result of that name from each machine.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from sgformer.commands.benchmark import benchmark

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

OURS, SWIN, CONVNEXT = "sgformer_s", "swin_tiny_patch4_window7_224", "convnext_tiny"
CPU: dict[str, Any] = {"device": "cpu", "threads": 2}
GPU: dict[str, Any] = {"device": "cuda", "dtype": ["bfloat16"], "compile": "yes", "together": True}
BOTH = ["inference", "training"]
RUNS: dict[str, dict[str, Any]] = {
    "inference224": {"models": [OURS, SWIN, CONVNEXT], "batch_size": 4, "rounds": 9, **CPU},
    "inference1344": {"models": [OURS, f"{OURS}@196", SWIN, CONVNEXT], "size": [1344], "rounds": 3, **CPU},
    "growth": {"models": [f"{OURS}@196"], "size": [512, 1024, 2048], "rounds": 3, **CPU},
    "training224": {"models": [OURS, SWIN], "batch_size": 8, "mode": ["training"], "rounds": 5, **CPU},
    "precision224": {
        "models": [OURS],
        "batch_size": 4,
        "dtype": ["float32", "bfloat16"],
        "memory": False,
        **CPU,
    },
    "memory1344": {
        "models": [OURS, f"{OURS}@196", SWIN, CONVNEXT],
        "size": [1344],
        "time": False,
        **CPU | {"threads": 1},
    },
    "memory224training": {
        "models": [OURS, SWIN, CONVNEXT],
        "batch_size": 8,
        "mode": ["training"],
        "time": False,
        **CPU | {"threads": 1},
    },
    "gpu224": {"models": [OURS, SWIN], "batch_size": 128, "mode": BOTH, **GPU},
    "gpu1024": {"models": [f"{OURS}@196", SWIN], "size": [1024], "batch_size": 8, "mode": BOTH, **GPU},
}
HEAD = (
    "| Model | Pictures a step | Mode, dtype | Seconds a step: median (quartiles) | Pictures / s "
    "| Peak memory, MB | GMACs | Parameters |\n|---|---|---|---|---|---|---|---|\n"
)


def row(cells: dict[str, str]) -> str:
    """A line of a result file as a line of a table."""
    spread = f"{cells['seconds_median']} ({cells['seconds_q25']} to {cells['seconds_q75']})"
    how = f"{cells['mode']}, {cells['dtype']}" + (", compiled" if cells["compiled"] == "True" else "")
    line = [f"`{cells['model']}`", f"{cells['batch_size']} of {cells['height']}x{cells['width']}", how]
    line += [spread if cells["seconds_median"] else "", cells["images_per_second"], cells["peak_memory_mb"]]
    return f"| {' | '.join([*line, cells['gmacs'], cells['mparams'] + 'M'])} |\n"


def table(name: str) -> str:
    """The newest result of a name from each machine, with its protocol; or a sentence that there is none."""
    newest: dict[str, Path] = {}
    for path in sorted(RESULTS.glob(f"{name}_*threads_torch*.csv"), key=lambda path: _protocol(path)["date"]):
        newest[_machine(_protocol(path))] = path
    if not newest:
        return f"Not measured yet: `python benchmarks/speed.py run {name}`.\n"
    tables = []
    for machine, path in reversed(newest.items()):
        with path.open(encoding="utf-8") as file:
            rows = "".join(row(cells) for cells in csv.DictReader(file))
        protocol = _protocol(path)
        commit = protocol["git_commit"][:7] + (" and changes" if protocol["git_changes"] else "")
        note = f"`{path.name}`: {machine}, threads: {protocol['num_threads']}, commit {commit}."
        tables.append(f"{HEAD}{rows}\n{note}\n")
    return "\n".join(tables)


def _machine(protocol: dict[str, Any]) -> str:
    return ", ".join(protocol["gpus"]) if protocol["device"] != "cpu" else protocol["processor"]


def _protocol(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def tables() -> None:
    """Fills all marks in the page."""
    marks = r"<!-- speed:(\w+) -->\n.*?<!-- /speed:\1 -->"
    text = PAGE.read_text(encoding="utf-8")
    filled = re.sub(
        marks, lambda m: f"<!-- speed:{m[1]} -->\n{table(m[1])}<!-- /speed:{m[1]} -->", text, flags=re.DOTALL
    )
    PAGE.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and sys.argv[2:] and set(sys.argv[2:]) <= RUNS.keys():
        for run in sys.argv[2:]:
            benchmark(**RUNS[run], out=RESULTS, label=run)
    elif sys.argv[1:] == ["tables"]:
        tables()
    else:
        sys.exit(f"{__doc__}\nnames: {', '.join(RUNS)}")
