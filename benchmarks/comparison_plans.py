"""What `compare_backbones.py` compares: tables of runs that differ in nothing but the backbone and the seed."""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[1] / "src" / "sgformer" / "recipes"
SWIN = "swin_tiny_patch4_window7_224"


@dataclass(frozen=True)
class Table:
    """Runs that differ in nothing but the backbone and the seed.

    Attributes:
        name: Of the table, and how result files begin.
        recipe: ``task/name``.
        folder: Of the pictures, in the folder of all sets.
        models: Names of timm.
        num_train: Pictures for training, to count steps.
        num_val: Pictures for validation.
        epochs: How many there should be, where there is time.
        num_validations: In each run, the one at the end among them.
        workers: Processes that read pictures for each run, on a machine of 16 cores.
        settings: Keys of the recipe that differ.
        trained: Whether backbones start from the weights of the plan imagenette160.
        kept: In which precision the last weights are kept: whole, half; empty: they are not.
        one_seed: Whether the first seed is enough.
    """

    name: str
    recipe: str
    folder: str
    models: tuple[str, ...]
    num_train: int
    num_val: int
    epochs: int
    num_validations: int = 2
    workers: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    kept: str = ""
    one_seed: bool = False


PLANS = {
    "imagenette160": (
        Table(
            name="imagenette160",
            recipe="classification/imagenette160",
            folder="imagenette160",
            models=("sgformer_s", SWIN, "convnext_tiny", "pvt_v2_b2", "resnet50"),
            num_train=5400,
            num_val=1200,
            epochs=40,
            num_validations=6,
            workers=2,
            settings={"data.image_size": 160, "data.eval_image_size": 160, "data.batch_size": 128},
            kept="whole",
        ),
        Table(
            name="imagenette112",
            recipe="classification/imagenette160",
            folder="imagenette160",
            models=("sgformer_t", "tiny_vit_5m_224", "convnext_femto"),
            num_train=5400,
            num_val=1200,
            epochs=36,
            num_validations=6,
            workers=1,
            kept="half",
            one_seed=True,
        ),
    ),
    "dense": (
        Table(
            name="nuclei",
            recipe="detection/nuclei",
            folder="nuclei",
            models=("sgformer_s", SWIN, "resnet50"),
            num_train=300,
            num_val=56,
            epochs=24,
            workers=2,
            settings={"data.batch_size": 8, "data.multiple": 4},
            trained=True,
        ),
        Table(
            name="coco_tiny80",
            recipe="detection/coco_tiny80",
            folder="coco_tiny80",
            models=("sgformer_s", SWIN, "resnet50"),
            num_train=362,
            num_val=89,
            epochs=24,
            settings={"data.batch_size": 8, "data.multiple": 4},
            trained=True,
        ),
        Table(
            name="camvid",
            recipe="segmentation/camvid",
            folder="camvid11",
            models=("sgformer_s", SWIN, "convnext_tiny"),
            num_train=367,
            num_val=101,
            epochs=40,
            num_validations=4,
            trained=True,
        ),
        Table(
            name="semantic_coco_tiny80",
            recipe="segmentation/coco_tiny80_semantic",
            folder="coco_tiny80",
            models=("sgformer_s", SWIN, "convnext_tiny"),
            num_train=362,
            num_val=89,
            epochs=40,
            num_validations=4,
            trained=True,
        ),
    ),
}
# What a backbone needs, or is faster with, by task; nothing here changes what is learned. Swin's windows keep their 7x7
# on small maps, so that its weights fit pictures of any size.
OWN: dict[str, dict[str, dict[str, Any]]] = {
    SWIN: {
        "classification": {"model.kwargs": {"always_partition": True}},
        "detection": {"model.kwargs": {"strict_img_size": False}},
    },
    **{
        name: {task: {"trainer.channels_last": True} for task in ("classification", "segmentation")}
        for name in ("convnext_tiny", "convnext_femto", "resnet50")
    },
}


@dataclass
class Job:
    """One run: what it is, its process, and what became of it."""

    table: Table
    model: str
    seed: int
    epochs: int
    settings: dict[str, Any]
    process: subprocess.Popen | None = None
    ended: str = ""  # "", or why it did not get to its end
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Of the result file."""
        return f"{self.group}_{short(self.model)}_seed{self.seed}"

    @property
    def group(self) -> str:
        """How the names of a table's files begin; those without trained backbones are a table of their own."""
        scratch = self.table.trained and self.settings["model.weights"] is None
        return f"{'scratch' if scratch else 'compare'}_{self.table.name}"

    def rows(self, out: Path) -> list[dict[str, str]]:
        """Its epochs so far."""
        try:
            with (self.folder(out) / "metrics.csv").open(encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    def folder(self, out: Path) -> Path:
        """The run folder."""
        return out / "runs" / self.name / Path(self.table.recipe).name

    def log(self, out: Path) -> Path:
        """What the process prints."""
        return out / "logs" / f"{self.name}.txt"


def short(model: str) -> str:
    return model.split("_patch")[0]


@cache
def packaged(recipe: str) -> dict[str, Any]:
    """What stands in the file of a recipe."""
    return yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))


def stretched(table: Table, epochs: int) -> dict[str, Any]:
    """The recipe's schedule for another number of epochs and another batch."""
    recipe = packaged(table.recipe)
    before, factor = recipe["trainer"]["max_epochs"], epochs / recipe["trainer"]["max_epochs"]
    settings = {
        "trainer.max_epochs": epochs,
        "optim.warmup_epochs": recipe["optim"]["warmup_epochs"] * factor,
    }
    if (mixed := recipe["data"]["augment"].get("mix_epochs")) is not None:
        settings["data.augment.mix_epochs"] = round(mixed * factor)
    if decay := recipe["trainer"].get("ema_decay"):
        num_steps = before * (table.num_train // recipe["data"]["batch_size"])
        reach = 1 / (1 - decay) / num_steps  # as a share of the run
        settings["trainer.ema_decay"] = round(max(1 - 1 / (reach * epochs * steps(table)), 0.5), 4)
    return settings


def steps(table: Table) -> int:
    """Of an epoch."""
    recipe = packaged(table.recipe)
    return table.num_train // table.settings.get("data.batch_size", recipe["data"]["batch_size"])


def jobs(arguments: argparse.Namespace, epochs: dict[str, int], out: Path) -> Iterator[Job]:
    """All runs of a plan, those of the first seed first; none of a table of no epochs."""
    for seed in arguments.seeds:
        for each in PLANS[arguments.plan]:
            wanted = epochs[each.name] > 0 and (seed == arguments.seeds[0] or not each.one_seed)
            for model in each.models if wanted else ():
                yield Job(
                    each, model, seed, epochs[each.name], _settings(arguments, each, model, epochs, out)
                )


def _settings(
    arguments: argparse.Namespace, each: Table, model: str, epochs: dict[str, int], out: Path
) -> dict[str, Any]:
    number, task = epochs[each.name], each.recipe.split("/")[0]
    settings = {
        "model.name": model,
        "data.root": str(arguments.data / each.folder),
        "data.workers": each.workers if arguments.workers is None else arguments.workers,
        "trainer.validate_every": max(1, -(-number // each.num_validations)),
        **dict.fromkeys(("trainer.report", "trainer.significance", "trainer.tensorboard"), False),
        "trainer.checkpoint_minutes": None,
        **stretched(each, number),
        **each.settings,
        **OWN.get(model, {}).get(task, {}),
    }
    if each.trained:
        weights = out / "weights" / f"{short(model)}.safetensors"
        settings["model.weights"] = None if arguments.from_scratch else str(weights)
        if not arguments.from_scratch and not weights.is_file():
            sys.exit(f"there is no {weights}; first run the plan imagenette160, or say --from-scratch")
    settings |= dict(setting.split("=", 1) for setting in arguments.set)
    return settings
