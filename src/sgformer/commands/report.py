"""Write a page about a run.

Every run ends with one. To make it anew, from other weights say:

Examples:
  sgformer report runs/imagenette160
"""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..tasks.evaluation import BaseReport, Mistake
    from ..tasks.model import Kept

NUM_WORST = 12


def report(run: str | Path, *, device: str = "auto") -> Path:
    """Write ``report.html`` into a run folder: curves, how its best weights do, the worst mistakes, the recipe.

    Args:
        run: The run folder.
        device: Where to compute; ``auto`` takes a GPU where there is one.

    Returns:
        The page.

    Raises:
        ValueError: The folder is no run, or its data are gone.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; name a run folder, such as runs/finetune")
    if not (folder / "metrics.csv").is_file():
        raise FileNotFoundError(f"{folder} has no metrics.csv; name a run folder whose first epoch is over")

    from PIL import Image

    from .. import report as pages
    from .. import tasks
    from ..engine import recipe as recipes
    from ..engine.files import write_atomically
    from ..engine.weights import locate
    from . import console

    path = locate(folder)
    model = tasks.load(path, device=console.device(device))
    task = tasks.get(recipes.task_of(folder / "recipe.yaml"))
    recipe = recipes.parse(folder / "recipe.yaml", task.Recipe)
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    sections = [pages.Section("How training went", pages.curves(rows, _plots(rows)))]
    if judged := task.evaluate(model, recipe.data, num_worst=NUM_WORST):
        sections += _judged(model, judged)
    if (strip := folder / "significance" / "evolution.png").is_file():
        drawn = pages.figure([Image.open(strip)], "the same validation images, all pairs of blocks together")
        sections.append(pages.Section("How significance evolved", drawn))
    sections += [
        pages.Section(title, pages.text(pages.read(folder / name)), folded=True)
        for title, name in (("Recipe", "recipe.yaml"), ("Environment", "environment.json"))
    ]
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    lead = (
        f"{recipe.task} with {recipe.model.name}, {num_parameters / 1e6:.1f}M parameters, {len(rows)} epochs in "
        f"{timedelta(seconds=round(sum(row['seconds'] for row in rows)))}"
    )
    page = pages.page(folder.name, lead, sections)
    path = folder / "report.html"
    write_atomically(path, page.encode())
    print(f"a page about the run: {path}")
    return path


def _judged(model: Kept, judged: BaseReport) -> list[Any]:
    """Sections on how the best weights do on the validation images."""
    from .. import report as pages

    lines = pages.lines(judged.to_lines())
    sections = [pages.Section("How the best weights do", pages.table(*judged.to_table()) + lines)]
    if confusion := judged.confusion:
        # All of them: some may have no validation images.
        names = list(map(model.name_of, range(len(confusion))))
        sections.append(pages.Section("What is taken for what", pages.matrix(confusion, names)))
    if curves := judged.curves:
        sections.append(pages.Section("Precision and recall", pages.precision_recall(curves)))
    if judged.worst:
        # Where colours mean classes, which is which.
        legend = pages.legend(model.classes, model.palette) if model.palette else ""
        shown = pages.gallery([(_with_significance(model, one), one.caption) for one in judged.worst])
        sections.append(pages.Section("The worst mistakes", legend + shown))
    return sections


def _plots(rows: list[dict[str, float]]) -> dict[str, list[str]]:
    """Losses in one plot, the learning rate in another, all other metrics in a third."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    losses = sorted(name for name in names if name.endswith("loss"))
    others = [name for name in names if name.startswith("val_") and name not in losses]
    plots = {"Loss": losses, "Validation": others, "Learning rate": ["lr"] if "lr" in names else []}
    return {title: shown for title, shown in plots.items() if shown}


def _with_significance(model: Kept, mistake: Mistake) -> list[Image]:
    """Panels of a mistake, and what was significant in the first, where the model can say."""
    from PIL import Image

    from ..explanations import combine, overlay, significance_maps

    first = mistake.panels[0]
    if model.guided is None:
        return mistake.panels
    maps = significance_maps(model, mistake.seen[None].to(model.mean.device))
    together = combine([m[0].numpy() for m in maps], (first.height, first.width))
    return [*mistake.panels, Image.fromarray(overlay(first, together))]
