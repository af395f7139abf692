"""Fine-tuning on a few dozen images a class: how the recipe `finetune` was chosen, and what it makes of weights.

    python benchmarks/finetuning.py choose DATA [SETTING...]                settings of the recipe, one seed
    python benchmarks/finetuning.py run DATA ROW=WEIGHTS... [--seeds 0 1]   rows, by the recipe as it is
    python benchmarks/finetuning.py table                                   the tables in docs/pretraining.md

DATA holds food10, textures10 and aerial7, or those named by --sets: of camvid11 and nuclei a few epochs of their own
recipes are run. WEIGHTS are as in benchmarks/pretraining.py, or none:NAME, a model of timm from nothing. Each run
leaves a result file, `results/finetuning/ROW_SET_seedN.json`, and what has one is not run again. The number of a run
is that of its last epoch: nothing within a run is chosen on the images that judge it. The settings were, so that the
last word is with images of neither split.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from pages import fill, markdown
from pretraining import PAGE, TRANSFER, load
from training_results import add

from sgformer.commands.train import train

RESULTS = Path(__file__).parent / "results" / "finetuning"
# What judging each epoch, drawing and a page would cost in time, and not change.
SPARING = {
    "trainer.significance": False,
    "trainer.tensorboard": False,
    "trainer.report": False,
    "trainer.checkpoint_minutes": None,
    "trainer.validate_every": 100,
}
# Other tasks than classification: recipe, what is judged, and what is changed to make it short.
DENSE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "camvid11": ("camvid", "val_miou", {"trainer.max_epochs": 6}),
    "nuclei": ("nuclei", "val_mask_ap", {"trainer.max_epochs": 2}),
}
# All that a setting may change, so that none depends on what the recipe says today.
BASE: dict[str, Any] = {
    "data.image_size": 96,
    "data.eval_image_size": 128,
    "data.crop_fraction": 1.0,
    "data.batch_size": 16,
    "data.augment.crop_scale": [0.5, 1.0],
    "data.augment.color_jitter": 0.2,
    "data.augment.rand_augment": "rand-m7-mmax9-mstd0.5-inc1",
    "data.augment.erase": 0.1,
    "data.augment.mixup": 0.0,
    "data.augment.cutmix": 0.0,
    "loss.label_smoothing": 0.1,
    "probe.penalties": [0.01],
    "probe.train": True,
    "optim.name": "adamw",
    "optim.lr": 3e-4,
    "optim.layer_decay": 0.8,
    "optim.weight_decay": 0.05,
    "optim.freeze_batch_norm": False,
    "trainer.max_epochs": 6,
    "trainer.ema_decay": 0.95,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "no_regression_first": {"probe.penalties": [], "probe.train": False},
    "lr_1e-3": {"optim.lr": 1e-3},
    "lr_1e-4": {"optim.lr": 1e-4},
    "little_augmentation": {"data.augment.rand_augment": None, "data.augment.erase": 0.0},
    "layer_decay_0.65": {"optim.layer_decay": 0.65},
    "mixup_epochs_12": {
        "data.augment.mixup": 0.2,
        "data.augment.cutmix": 1.0,
        "data.augment.mix_prob": 0.5,
        "trainer.max_epochs": 12,
    },
    "muon": {"optim.name": "nmuon", "optim.lr": 1e-3},
    "muon_frozen_norms": {"optim.name": "nmuon", "optim.lr": 1e-3, "optim.freeze_batch_norm": True},
    "muon_lr_3e-3": {"optim.name": "nmuon", "optim.lr": 3e-3},
    "muon_no_augmentation": {
        "optim.name": "nmuon",
        "optim.lr": 1e-3,
        "data.augment.rand_augment": None,
        "data.augment.erase": 0.0,
    },
    "pixels_128": {"data.image_size": 128, "data.eval_image_size": 160},
    "epochs_12": {"trainer.max_epochs": 12},
    "long": {
        "optim.lr": 1e-3,
        "optim.layer_decay": None,
        "trainer.max_epochs": 40,
        "probe.penalties": [],
        "probe.train": False,
    },
}


def fit(weights: str, data: Path, overrides: dict[str, Any], name: str, folder: Path) -> None:
    """One run and its result file; nothing where there is one."""
    if (folder / f"{name}.json").exists():
        return
    kind, _, rest = weights.partition(":")
    with tempfile.TemporaryDirectory() as out:
        model: dict[str, Any] = {"model.name": rest, "model.weights": None}
        if kind != "none":
            found = load(weights)
            found.save(Path(out, "start.safetensors"))
            model = {"model.name": found.name, "model.weights": f"{out}/start.safetensors"}
        recipe, _, short = DENSE.get(data.name, ("finetune", "", {}))
        run = train(recipe, {**SPARING, **model, "data.root": str(data), **short, **overrides}, out=out)
        assert run
        commit = json.loads((run / "environment.json").read_text(encoding="utf-8"))["git_commit"]
        add(run, name, folder=folder, more={"commit": commit, "weights": Path(weights).name})
    print(name, accuracy(folder / f"{name}.json"), flush=True)


def accuracy(path: Path) -> float:
    """What is judged, after the last epoch."""
    metric = DENSE.get(path.stem.rsplit("_", 2)[1], ("", "val_top1", {}))[1]
    return json.loads(path.read_text(encoding="utf-8"))["epochs"][-1][metric]


def choose(data: Path, sets: list[str], names: list[str], weights: str, label: str) -> None:
    """Run settings, from the weights that ship or from others, which the label tells apart."""
    for name in names or SETTINGS:
        for one in sets:
            overrides = {**BASE, **SETTINGS[name]}
            fit(weights, data / one, overrides, f"{label}{name}_{one}_seed0", RESULTS / "settings")


def run(data: Path, sets: list[str], rows: list[str], seeds: list[int]) -> None:
    """Run rows, all of them with one seed before the next."""
    for seed in seeds:
        for row in rows:
            name, _, weights = row.partition("=")
            for one in sets:
                fit(weights, data / one, {"seed": seed}, f"{name}_{one}_seed{seed}", RESULTS)


def mean_and_deviation(scores: list[float]) -> str:
    """Of the seeds, in percent; the mean alone where there is one seed."""
    if not scores:
        return ""
    return f"{statistics.mean(scores):.1%}" + (f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else "")


def rows_of(folder: Path, names: list[str], sets: tuple[str, ...]) -> list[list[str]]:
    """A line of a table for each of the rows: what the seeds reached, and minutes a run; nothing where no run is."""
    lines = []
    for name in names:
        paths = [sorted(folder.glob(f"{name}_{one}_seed*.json")) for one in sets]
        runs = [json.loads(path.read_text(encoding="utf-8")) for found in paths for path in found]
        if not runs:
            continue
        scores = [[accuracy(path) for path in found] for found in paths]
        if len(sets) > 1:  # of each seed that was run on every set
            scores.append([statistics.mean(of_a_seed) for of_a_seed in zip(*scores, strict=False)])
        cells = [mean_and_deviation(found) for found in scores]
        seeds = " to ".join(dict.fromkeys(str(n) for n in sorted({len(found) for found in paths if found})))
        minutes = sum(epoch["seconds"] for run in runs for epoch in run["epochs"]) / len(runs) / 60
        lines.append([name, *cells, seeds, f"{minutes:.1f}"])
    return lines


def table() -> None:
    """Write the tables in docs/pretraining.md from the result files."""
    for mark, folder, sets in (
        ("finetuning", RESULTS, TRANSFER),
        ("settings", RESULTS / "settings", TRANSFER),
        *((one, RESULTS, (one,)) for one in DENSE),
    ):
        found = {path.stem.rsplit("_", 2)[0] for path in folder.glob("*.json")}
        names = [name for name in SETTINGS if name in found] if mark == "settings" else []
        names += sorted(found - set(names))
        columns = ["Setting" if mark == "settings" else "Start", *sets, *["mean"] * (len(sets) > 1)]
        heads = [*columns, "seeds", "minutes a run"]
        if f"<!-- results:{mark} -->" in PAGE.read_text(encoding="utf-8"):
            fill(PAGE, f"results:{mark}", markdown(heads, rows_of(folder, names, sets)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, what in (("choose", "settings"), ("run", "rows")):
        one = verbs.add_parser(verb)
        one.add_argument("data", type=Path)
        one.add_argument(what, nargs="*" if verb == "choose" else "+")
        one.add_argument("--sets", nargs="+", default=list(TRANSFER))
        if verb == "choose":
            one.add_argument("--weights", default="sgformer_t")
            one.add_argument("--label", default="")
        one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    verbs.add_parser("table")
    given = parser.parse_args()
    if given.verb == "choose":
        choose(given.data, given.sets, given.settings, given.weights, given.label)
    elif given.verb == "run":
        run(given.data, given.sets, given.rows, given.seeds)
    else:
        table()


if __name__ == "__main__":
    main()
