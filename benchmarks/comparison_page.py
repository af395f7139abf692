"""The page of `compare_backbones.py`, docs/comparison.md: a table and a plot of each task, out of result files.

python benchmarks/comparison_page.py
"""

import statistics
from pathlib import Path
from typing import Any

from compare_backbones import BACKBONES, SEEDS, TABLES, Run, better_rate, last_loss, measured_costs, planned, value
from pages import markdown, spread

INTRODUCTION = """# Beside other backbones

SG-Former beside backbones of like cost: the same recipe, the same steps, pretrained on nothing, the recipe tuned for
none of them. The first seed of each is to be trained with two learning rates, the other seeds with the better one
("kept"); what is missing below was not run yet. Mean and standard deviation over seeds. From random weights and in so
few steps, a table shows how fast a backbone learns as much as how far it would get; so the loss on the training images
in the last epoch stands beside it. All ran in `bf16-mixed`, on two cores of an AMD EPYC or of an Intel Xeon, which each
result file names. `benchmarks/compare_backbones.py` makes the runs,
`benchmarks/comparison_page.py` this page.
"""


def standing(name: str, ours: str = "sgformer_t") -> str:
    """How our model stands beside each other one in a table, in percentage points; nothing where it has no run."""
    metric, label = next(iter(TABLES[name].shown.items()))
    means = {}
    for backbone in BACKBONES:
        rate = better_rate(name, backbone) or TABLES[name].rates[0]
        scores = [score for seed in SEEDS if (score := value(Run(name, backbone, rate, seed), metric)) is not None]
        if scores:
            means[backbone] = statistics.mean(scores)
    if ours not in means or len(means) < 2:
        return ""
    mine = means.pop(ours)
    gaps = (
        f"{100 * abs(mine - other):.1f} {'ahead of' if mine > other else 'behind'} `{name}`"
        for name, other in means.items()
    )
    return f"`{ours}` reaches {mine:.1%} ({label}). In percentage points that is {', '.join(gaps)}."


def table(name: str, known: dict[str, Any]) -> str:
    """A table of a task: each backbone, its cost, and what the runs that are done reached."""
    about = TABLES[name]
    heads = [
        "Backbone",
        "Parameters",
        "GMACs at 224",
        "ms an image",
        "Learning rate",
        *about.shown.values(),
        "Training loss",
    ]
    rows = []
    for backbone in BACKBONES:
        cost = known.get(backbone)
        cells = (
            [f"{cost['parameters'] / 1e6:.1f}M", f"{cost['gmacs']:.2f}", f"{cost['seconds'] * 1e3:.0f}"]
            if cost
            else [""] * 3
        )
        best = better_rate(name, backbone)
        for rate in about.rates:
            runs = [Run(name, backbone, rate, seed) for seed in SEEDS]
            if not any(run.result.is_file() for run in runs):
                continue
            shown = []
            for metric in about.shown:
                values = [value(run, metric) for run in runs]
                shown.append(spread([score for score in values if score is not None]))
            losses = [loss for run in runs if (loss := last_loss(run)) is not None]
            shown.append(f"{statistics.mean(losses):.2f}")
            mark = " (kept)" if rate == best else ""
            rows.append([f"`{backbone}`", *cells, f"{rate:g}{mark}", *shown])
    return markdown(heads, rows)


def plot(name: str, known: dict[str, Any], path: Path) -> None:
    """Draws what each backbone reached, by its first metric, over the measured time of an image."""
    from matplotlib.figure import Figure

    about = TABLES[name]
    metric, label = next(iter(about.shown.items()))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for backbone, cost in known.items():
        rate = better_rate(name, backbone) or about.rates[0]
        scores = [
            100 * score for seed in SEEDS if (score := value(Run(name, backbone, rate, seed), metric)) is not None
        ]
        if not scores:
            continue
        mean, deviation = statistics.mean(scores), statistics.stdev(scores) if len(scores) > 1 else 0
        points, *_ = axes.errorbar(cost["seconds"] * 1e3, mean, deviation or None, fmt="o", capsize=3)
        top = (cost["seconds"] * 1e3, mean + deviation)
        style = {"textcoords": "offset points", "ha": "center", "color": points.get_color()}
        axes.annotate(backbone, top, xytext=(0, 5), **style)
    axes.set(xlabel="ms an image of 224x224", ylabel=f"{label} (%)", title=about.title)
    axes.margins(x=0.25, y=0.2)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def page() -> str:
    """The page: an introduction, and the table of each task that has runs."""
    known, parts = measured_costs(), [INTRODUCTION]
    for name, about in TABLES.items():
        if any(run.table == name and run.result.is_file() for run in planned()):
            picture = f"\n![{about.title}](images/comparison_{name}.png)\n" if known else ""
            parts.append(f"## {about.title}\n\n{table(name, known)}\n{standing(name)}\n{picture}")
    return "\n".join(parts)


def write(docs: Path) -> None:
    """Writes the page and its plots."""
    (docs / "comparison.md").write_text(page(), encoding="utf-8")
    known = measured_costs()
    for name in TABLES if known else ():
        if any(run.table == name and run.result.is_file() for run in planned()):
            plot(name, known, docs / "images" / f"comparison_{name}.png")


if __name__ == "__main__":
    write(Path(__file__).parents[1] / "docs")
