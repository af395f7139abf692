"""Result files of training runs, and the tables that the docs show of them.

    python benchmarks/training_results.py add RUN_FOLDER NAME    a run folder becomes a result file
    python benchmarks/training_results.py tables                 result files become tables, where the marks are

A result file, `results/training/<NAME>.json`, holds the recipe, the machine, the number of parameters and each epoch's
metrics. A mark is a pair of comments, `<!-- results:PREFIX -->` and `<!-- /results:PREFIX -->`; between them goes a row
for each result file whose name starts with PREFIX. Files whose names differ in nothing but `_seed0`, `_seed1` and so on
are one row, with the mean over the seeds and the least and the greatest of them. A run with fewer epochs than its
recipe asked for says so.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from pages import fill, markdown

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "training"
PAGES = ("docs/initialisation.md", "docs/training.md", "docs/detection.md", "docs/segmentation.md")
# What a task's table shows beside run, model, pixels, epochs and minutes: head, metric, and of which epoch.
COLUMNS = {
    "classification": (("Top-1, best epoch", "val_top1", "best"), ("Top-1, last epoch", "val_top1", "last")),
    "detection": (
        ("Box AP, best epoch", "val_box_ap", "best"),
        ("Box AP50", "val_box_ap50", "best"),
        ("Mask AP", "val_mask_ap", "best"),
        ("Mask AP50", "val_mask_ap50", "best"),
    ),
    "segmentation": (("mIoU, best epoch", "val_miou", "best"), ("mIoU, last epoch", "val_miou", "last")),
}


def add(run: Path, name: str, *, folder: Path = RESULTS, more: dict[str, Any] | None = None) -> Path:
    """Writes the result file of a run folder, with what else there is to say about it."""
    import sgformer

    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["data"]["root"] = None  # where the images lay says nothing to others
    if recipe["model"]["weights"]:
        recipe["model"]["weights"] = Path(recipe["model"]["weights"]).name
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        # An epoch that was not validated has no metrics.
        epochs = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    machine = {key: environment[key] for key in ("date", "processor", "num_cpus", "num_threads", "gpus")}
    machine["precision"] = environment.get("precision")  # older runs do not say
    parameters = sum(parameter.numel() for parameter in sgformer.load(run).parameters())
    content = {"recipe": recipe, "machine": machine, "versions": environment["versions"]}
    content |= {"parameters": parameters, **(more or {}), "epochs": epochs}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def table(paths: list[Path]) -> str:
    """A table of result files of one task, runs that differ in the seed alone in one row."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths)}
    groups: dict[str, list[str]] = {}
    for name in runs:
        groups.setdefault(re.sub(r"_seed\d+$", "", name), []).append(name)
    # Files from before have no number of parameters.
    detailed = any("parameters" in run for run in runs.values())
    shown = COLUMNS[next(iter(runs.values()))["recipe"]["task"]]
    heads = ["Run", "Model", *["Parameters"] * detailed, "Pixels, training and evaluation", "Epochs"]
    heads += [*["Steps"] * detailed, "Minutes", *(head for head, _, _ in shown)]
    rows = [_cells(group, names, [runs[name] for name in names], detailed) for group, names in groups.items()]
    return markdown(heads, rows) + (_machines(list(runs.values())) if detailed else "")


def _cells(group: str, names: list[str], runs: list[dict[str, Any]], detailed: bool) -> list[str]:
    """A row: one run, or one with several seeds."""
    recipe = runs[0]["recipe"]
    parameters = f"{runs[0]['parameters'] / 1e6:.1f}M" if "parameters" in runs[0] else ""
    seeds = f"`{group}`, seeds {', '.join(name.rpartition('_seed')[2] for name in names)}"
    epochs = dict.fromkeys(_epochs(run) for run in runs)
    steps = dict.fromkeys(f"{run['epochs'][-1]['step']:.0f}" for run in runs)
    minutes = sum(epoch["seconds"] for run in runs for epoch in run["epochs"]) / len(runs) / 60
    return [
        f"`{names[0]}`" if len(names) == 1 else seeds,
        f"`{recipe['model']['name']}`",
        *[parameters] * detailed,
        f"{recipe['data']['image_size']}, {_evaluated(recipe['data'])}",
        ", ".join(epochs),
        *[", ".join(steps)] * detailed,
        f"{minutes:.{0 if minutes >= 10 or not detailed else 1}f}",
        *(_spread([_value(run, metric, which) for run in runs]) for _, metric, which in COLUMNS[recipe["task"]]),
    ]


def _epochs(run: dict[str, Any]) -> str:
    """How many there were; where the run was stopped early, also how many there should have been."""
    done, planned = len(run["epochs"]), run["recipe"]["trainer"]["max_epochs"]
    return f"{done}" if done >= planned else f"{done} of {planned}"


def _value(run: dict[str, Any], metric: str, which: str) -> float | None:
    """A metric of the best epoch, which is that of the task's first column, or of the last one that was validated."""
    first = COLUMNS[run["recipe"]["task"]][0][1]
    judged = [epoch for epoch in run["epochs"] if first in epoch]
    if not judged:
        return None
    epoch = judged[-1] if which == "last" else max(judged, key=lambda epoch: epoch[first])
    return epoch.get(metric)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{sum(known) / len(known):.1%}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.1%} to {max(known):.1%})"


def _evaluated(data: dict[str, Any]) -> str:
    """The size of images in evaluation; where a task looks at them as they are, that."""
    if "inference" in data:
        return f"shorter side {data['inference']['shorter_side']}" if data["inference"]["shorter_side"] else "own"
    return str(data.get("eval_image_size") or data["image_size"])


def _machines(runs: list[dict[str, Any]]) -> str:
    """A line about where the runs were made, and with how many others beside them."""
    places = {}
    for run in runs:
        machine = run["machine"]
        what = ", ".join(machine["gpus"]) or f"{machine['processor']}, threads: {machine['num_threads']}"
        beside = f", up to {run['runs_at_once']} runs at once" if run.get("runs_at_once", 1) > 1 else ""
        places[f"{what}, torch {run['versions']['torch'].split('+')[0]}{beside}"] = None
    return f"\nOn: {'; '.join(places)}.\n"


def tables() -> None:
    """Fills all marks in the pages."""
    for page in PAGES:
        fill(ROOT / page, r"results:(\w+)", lambda prefix: table(list(RESULTS.glob(f"{prefix}*.json"))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        print(add(Path(sys.argv[2]), sys.argv[3]))
    elif sys.argv[1:] == ["tables"]:
        tables()
    else:
        sys.exit(__doc__)
