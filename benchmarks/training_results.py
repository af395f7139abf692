"""Result files of training runs, and the tables that README and docs show of them.

    python benchmarks/training_results.py add RUN_FOLDER NAME    a run folder becomes a result file
    python benchmarks/training_results.py tables                 result files become tables, where the marks are

A result file, `results/training/<NAME>.json`, holds the recipe, the machine and each epoch's metrics. A mark is a pair
of comments, `<!-- results:PREFIX -->` and `<!-- /results:PREFIX -->`; between them goes a row for each result file
whose name starts with PREFIX.
"""

import csv
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "training"
PAGES = ("README.md", "docs/initialisation.md", "docs/detection.md", "docs/segmentation.md")
# What a task's table shows beside run, model, pixels, epochs and minutes: head, metric, and of which epoch.
COLUMNS = {
    "classification": (
        ("Top-1, best epoch", "val_top1", "best"),
        ("Top-1, last epoch", "val_top1", "last"),
    ),
    "detection": (
        ("Box AP, best epoch", "val_box_ap", "best"),
        ("Box AP50", "val_box_ap50", "best"),
        ("Mask AP", "val_mask_ap", "best"),
        ("Mask AP50", "val_mask_ap50", "best"),
    ),
    "segmentation": (("mIoU, best epoch", "val_miou", "best"), ("mIoU, last epoch", "val_miou", "last")),
}


def add(run: Path, name: str) -> Path:
    """Writes the result file of a run folder."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["data"]["root"] = None  # where the pictures lay says nothing to others
    if recipe["model"]["weights"]:
        recipe["model"]["weights"] = Path(recipe["model"]["weights"]).name
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        epochs = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    machine = {key: environment[key] for key in ("date", "processor", "num_cpus", "num_threads", "gpus")}
    content = {"recipe": recipe, "machine": machine, "versions": environment["versions"], "epochs": epochs}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def row(path: Path) -> str:
    """A result file as a line of a table."""
    content = json.loads(path.read_text(encoding="utf-8"))
    epochs, data = content["epochs"], content["recipe"]["data"]
    # The best epoch is that of the first number.
    shown = COLUMNS[content["recipe"]["task"]]
    epoch_of = {"best": max(epochs, key=lambda epoch: epoch[shown[0][1]]), "last": epochs[-1]}
    cells = [
        f"`{path.stem}`",
        f"`{content['recipe']['model']['name']}`",
        f"{data['image_size']}, {_evaluated(data)}",
        f"{len(epochs)}",
        f"{sum(epoch['seconds'] for epoch in epochs) / 60:.0f}",
        *(f"{epoch_of[which][metric]:.1%}" if metric in epochs[0] else "" for _, metric, which in shown),
    ]
    return f"| {' | '.join(cells)} |\n"


def _evaluated(data: dict) -> str:
    """The size of pictures in evaluation; where a task looks at them as they are, that."""
    if "inference" in data:
        return (
            f"shorter side {data['inference']['shorter_side']}"
            if data["inference"]["shorter_side"]
            else "own"
        )
    return str(data.get("eval_image_size") or data["image_size"])


def head(path: Path) -> str:
    """The first lines of the table that a result file stands in."""
    task = json.loads(path.read_text(encoding="utf-8"))["recipe"]["task"]
    names = ["Run", "Model", "Pixels, training and evaluation", "Epochs", "Minutes"]
    names += [name for name, _, _ in COLUMNS[task]]
    return f"| {' | '.join(names)} |\n{'|---' * len(names)}|\n"


def tables() -> None:
    """Fills all marks in the pages."""
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")

        def table(found: re.Match[str]) -> str:
            paths = sorted(RESULTS.glob(f"{found[1]}*.json"))
            rows = "".join(row(path) for path in paths)
            first = head(paths[0]) if paths else ""
            return f"<!-- results:{found[1]} -->\n{first}{rows}<!-- /results:{found[1]} -->"

        marks = r"<!-- results:(\w+) -->\n.*?<!-- /results:\1 -->"
        page.write_text(re.sub(marks, table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        print(add(Path(sys.argv[2]), sys.argv[3]))
    elif sys.argv[1:] == ["tables"]:
        tables()
    else:
        sys.exit(__doc__)
