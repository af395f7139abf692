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
PAGES = ("README.md", "docs/initialisation.md", "docs/segmentation.md")
# Of each task the metric that decides which epoch is best, and what a table calls it.
MONITORS = {"classification": ("val_top1", "Top-1"), "segmentation": ("val_miou", "mIoU")}
HEAD = (
    "| Run | Model | Pixels, training and evaluation | Epochs | Minutes | {0}, best epoch | {0}, last epoch |\n"
    "|---|---|---|---|---|---|---|\n"
)


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
    monitor, _ = MONITORS[content["recipe"]["task"]]
    cells = [
        f"`{path.stem}`",
        f"`{content['recipe']['model']['name']}`",
        f"{data['image_size']}, {_evaluated(data)}",
        f"{len(epochs)}",
        f"{sum(epoch['seconds'] for epoch in epochs) / 60:.0f}",
        f"{max(epoch[monitor] for epoch in epochs):.1%}",
        f"{epochs[-1][monitor]:.1%}",
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


def tables() -> None:
    """Fills all marks in the pages."""
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")

        def table(found: re.Match[str]) -> str:
            paths = sorted(RESULTS.glob(f"{found[1]}*.json"))
            tasks = {json.loads(path.read_text(encoding="utf-8"))["recipe"]["task"] for path in paths}
            head = HEAD.format(MONITORS[tasks.pop()][1] if len(tasks) == 1 else "Score")
            rows = "".join(map(row, paths))
            return f"<!-- results:{found[1]} -->\n{head}{rows}<!-- /results:{found[1]} -->"

        marks = r"<!-- results:(\w+) -->\n.*?<!-- /results:\1 -->"
        page.write_text(re.sub(marks, table, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        print(add(Path(sys.argv[2]), sys.argv[3]))
    elif sys.argv[1:] == ["tables"]:
        tables()
    else:
        sys.exit(__doc__)
