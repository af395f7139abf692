"""How many training images per second come out of the input pipeline, by recipe and number of workers.

    python benchmarks/input_pipeline.py FOLDER    with train/<class>/ and val/<class>/

Writes `results/input_pipeline.json` and the table between the marks in `docs/training.md`. Nothing is trained; a
line is the median of three epochs over 1,200 images, after one that warms up.
"""

import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from pages import fill, markdown

import sgformer  # noqa: F401
from sgformer.engine import recipe as recipes
from sgformer.engine.environment import environment
from sgformer.tasks.classification.data import ClassificationData
from sgformer.tasks.classification.task import Recipe
from sgformer.tasks.images import Preprocessing

ROOT = Path(__file__).parents[1]
NUM_IMAGES = 1200


def rate(recipe: str, workers: int, root: str) -> float:
    """Images per second."""
    options = recipes.parse(recipes.find(recipe), Recipe).data
    options = dataclasses.replace(options, source="folders", root=root, workers=workers, batch_size=60)
    data = ClassificationData(options, Preprocessing(image_size=options.eval_size))
    items = data.samples["train"].items
    step = len(items) // NUM_IMAGES
    data.samples["train"] = dataclasses.replace(
        data.samples["train"], items=[items[i * step] for i in range(NUM_IMAGES)]
    )
    loader, rates = data.train_dataloader(), []
    for _ in range(4):
        start = time.perf_counter()
        num = sum(len(batch.images) for batch in loader)
        rates.append(num / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def main(root: str) -> None:
    torch.set_num_threads(1)
    rows = [
        {"recipe": recipe, "workers": workers, "images_per_second": round(rate(recipe, workers, root))}
        for recipe in ("imagenette160", "in1k")
        for workers in (0, 1, 2)
    ]
    machine = environment()
    result = {"machine": f"{os.cpu_count()} cores, {machine['processor']}", "rows": rows}
    (ROOT / "benchmarks" / "results" / "input_pipeline.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [[f"`{row['recipe']}`", str(row["workers"]), str(row["images_per_second"])] for row in rows]
    made = markdown(["Recipe", "Workers", "Images per second"], lines)
    table = f"{made}\n{result['machine']}; images of 160x160 pixels.\n"
    fill(ROOT / "docs" / "training.md", "input_pipeline", table)
    print(table)


if __name__ == "__main__":
    main(sys.argv[1])
