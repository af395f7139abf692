r"""Train a model from a recipe.

Any key of the recipe can be changed: --SECTION.KEY VALUE. See them all with
--print-config.

Examples:
  sgformer train smoke                           # to see that all works
  sgformer train finetune --data.root photos     # of photos/train/CLASS/*.jpg,
                                                 # judged on photos/val/CLASS/
  sgformer train imagenette160 --data.root imagenette160 \
      --model.name resnet18 --trainer.max_epochs 10
  sgformer train --resume runs/imagenette160
"""

from __future__ import annotations

import dataclasses
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tasks import TaskPackage
    from ..tasks.data import Data
    from ..tasks.model import Kept
    from ..tasks.options import Recipe
    from ..tasks.task import Task


def train(
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path = "runs",
    resume: str | Path | None = None,
    print_config: bool = False,
) -> Path | None:
    """Train a model from a recipe.

    Args:
        recipe: Name of a packaged recipe, or path of a YAML file; not needed to resume a run, which has its own.
        overrides: Keys to change, such as ``{"data.root": "photos", "trainer.max_epochs": 3}``.
        out: Where the folder of a new run goes; it is called like the recipe.
        resume: A run folder to go on with, instead of a new one. Its own recipe holds, with the keys that are given.
        print_config: Whether to print the recipe with all its keys, and stop.

    Returns:
        The run folder: recipe.yaml, environment.json, metrics.csv, best.safetensors, last.safetensors.

    Raises:
        ValueError: There is no recipe, or something in it or the data does not hold together.
        LossError: The loss stopped being a number.
    """
    from ..engine import recipe as recipes

    if resume and Path(out).absolute() not in (Path("runs").absolute(), Path(resume).absolute().parent):
        raise ValueError(f"--out {out} has no effect beside --resume: the run goes on in {resume}; leave it out")
    path, package, parsed = _read(recipe, overrides, resume)
    if print_config:
        print(recipes.to_yaml(parsed), end="")
        return None

    from rich import get_console

    from ..engine import fit
    from ..engine.run_folder import say, write_description
    from . import console

    task, data = _build(parsed, package, out=out, resume=resume)
    with_kernels = console.kernels(parsed.trainer.kernels, "cpu")
    # The folder is made last: a mistake in recipe or data leaves nothing behind.
    if resume:
        folder = Path(resume)
    elif fit.is_first_process():
        folder = fit.new_folder(out, recipes.run_name(path))
        write_description(folder, recipes.to_yaml(parsed), str(data), _precision(parsed))
    else:
        folder = Path(out)  # callbacks that write in the others ask the first one
    get_console().quiet |= not fit.is_first_process()
    watchers = _watchers(parsed, task.model, data, folder, resume=bool(resume))
    num_parameters = sum(parameter.numel() for parameter in task.model.parameters())
    model = f"{parsed.model.name} · {num_parameters / 1e6:.1f}M parameters, {_start(parsed.model, resume)}"
    say(f"{model}, {_precision(parsed)} · {data} -> {folder}")
    if resume:
        _say_changes(parsed, data, folder, moves="data.root" not in (overrides or {}))
        if recipe:
            say(f"{recipe} is not read: the run's own recipe holds, with the keys that are given")
    if parsed.shortcut:
        return _fit_at_once(parsed, task.model, data, folder)
    settings = {"recipe": to_share(parsed), "seed": parsed.seed, "watchers": watchers, "resume": bool(resume)}
    try:
        with with_kernels:
            best = fit.fit(task, data, parsed.trainer, folder, **settings)
    except KeyboardInterrupt:
        if (folder / fit.CHECKPOINT).is_file():
            print(f"To go on after the last full epoch: sgformer train --resume {folder}")
        raise
    if fit.is_first_process() and parsed.trainer.report:
        with console.waiting("evaluating the best weights, for report.html ..."):
            _report(folder)
    say(
        f"best {task.monitor} {best.get(task.monitor, float('nan')):.4g} in epoch {best['epoch']:.0f}\n"
        f"Next:\n  sgformer evaluate {folder}\n  sgformer predict {folder} IMAGES"
    )
    return folder


def _read(
    recipe: str | Path | None, overrides: Mapping[str, Any] | None, resume: str | Path | None
) -> tuple[Path, TaskPackage, Recipe]:
    """The file of a recipe, the package of its task, and what it says with the overrides, which suits a resumed run."""
    from .. import tasks
    from ..engine import recipe as recipes
    from . import console

    source = Path(resume) / "recipe.yaml" if resume else recipe
    if source is None:
        raise ValueError("name a recipe (sgformer list recipes), or a run to go on with: --resume RUN")
    if resume:
        _check_run(Path(resume))
    path = recipes.find(source)
    with console.waiting("loading ..."):
        package = tasks.get(recipes.task_of(path))
    parsed = recipes.parse(path, package.Recipe, overrides)
    if resume:
        from ..engine.resuming import check_changes

        check_changes(Path(resume), recipes.parse(path, package.Recipe), parsed)
    return path, package, parsed


def _build(parsed: Recipe, package: TaskPackage, *, out: str | Path, resume: str | Path | None) -> tuple[Task, Data]:
    """Task and data of a run, once machine, disk and checkpoint are checked; nothing is written."""
    from lightning.pytorch import seed_everything

    from ..engine import checkpoints, devices, fit
    from . import console

    seed_everything(parsed.seed, workers=True, verbose=False)
    trainer = parsed.trainer
    devices.check(trainer.accelerator, trainer.devices, sync_batch_norm=trainer.sync_batch_norm)
    devices.share(parsed.data.batch_size, devices.num_processes(trainer.devices, trainer.num_nodes))
    with console.waiting("scanning the data ..."):
        task, data = package.build(parsed)
    fit.prepare(task, trainer)
    checkpoints.check_space(Path(resume or out), task.model, keep_best=trainer.keep_best)
    if resume:
        checkpoints.check_fits(Path(resume), task, averages=bool(trainer.ema_decay))
    return task, data


def _precision(parsed: Recipe) -> str:
    """The precision that a run computes in; a regression has one of its own."""
    from ..engine import fit

    return "32-true" if parsed.shortcut else fit.precision_of(parsed.trainer)


def _watchers(parsed: Recipe, model: Kept, data: Data, folder: Path, *, resume: bool) -> list[Any]:
    """Callbacks of the run beside those of `fit`."""
    from ..engine import fit
    from ..engine import recipe as recipes
    from ..engine.callbacks import CountUnreadable
    from ..engine.run_folder import Describe

    watchers: list[Any] = [CountUnreadable(folder, num_images=data.num_images, max_share=parsed.data.max_unreadable)]
    if resume and fit.is_first_process():
        watchers.append(Describe(folder, recipes.to_yaml(parsed), str(data), _precision(parsed)))
    return watchers + (_significance(model, data, folder) if parsed.trainer.significance else [])


def _fit_at_once(parsed: Recipe, model: Kept, data: Data, folder: Path) -> Path:
    """Fit the head alone, by regression, and leave in the run folder what training would."""
    from ..engine.files import to_csv, write_atomically

    assert parsed.shortcut
    start = time.perf_counter()
    found, words = parsed.shortcut(parsed, data, model)
    metrics = {"epoch": 1, "step": 0, **found}
    metrics["seconds"] = round(time.perf_counter() - start, 2)
    write_atomically(folder / "metrics.csv", to_csv([metrics]).encode())
    for name in ("last", "best"):
        model.save(folder / f"{name}.safetensors", recipe=to_share(parsed), metrics=metrics)
    if parsed.trainer.report:
        _report(folder)
    print(f"{words} · {metrics['seconds']:.1f} s\nNext:\n  sgformer predict {folder} IMAGES")
    return folder


def _say_changes(parsed: Recipe, data: Data, folder: Path, *, moves: bool) -> None:
    """Say how a resumed run differs from what it was, and whether it is over; ``moves``: whether data may be moved."""
    from ..engine.run_folder import data_of, moved, precision_before, say

    if moves and (note := moved(folder, parsed.data.root)):
        say(note)
    if not data.is_of(before := data_of(folder) or str(data)):
        say(f"the data are not those of the run, which were: {before}")
    if (now := _precision(parsed)) != (before := precision_before(folder) or now):
        say(f"the run computed in {before}, and goes on in {now}, by trainer.precision {parsed.trainer.precision}")
    if (num_epochs := _num_epochs(folder)) >= parsed.trainer.max_epochs:
        say(f"all {num_epochs} epochs are over; to train on: --trainer.max_epochs {num_epochs + 1} or more")


def _check_run(folder: Path) -> None:
    """Raise where a run has no complete checkpoint to resume from, before data are scanned."""
    for name in ("last.ckpt", "recipe.yaml"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name} to go on from; name a run whose first epoch is over")
    if not zipfile.is_zipfile(folder / "last.ckpt"):  # as a file that was copied in part is not
        raise ValueError(
            f"{folder / 'last.ckpt'} is cut off or damaged; copy it again, or start a new run from the weights: "
            f"--model.weights {folder}"
        )


def _num_epochs(folder: Path) -> int:
    """Count the finished epochs of a run."""
    table = folder / "metrics.csv"
    return len(table.read_text(encoding="utf-8").splitlines()) - 1 if table.is_file() else 0


def _start(model: Any, resume: str | Path | None) -> str:
    """Describe the initial weights."""
    if resume:
        return "resumed"
    if model.weights:
        return f"from the weights {model.weights}"
    return "from timm's trained weights" if model.pretrained else "from scratch"


def _significance(model: Kept, data: Data, folder: Path) -> list[Any]:
    """A callback that draws how significance evolves, for models that have it."""
    import torch
    from torchvision.transforms.v2.functional import pil_to_tensor

    from ..explanations.watch import WatchSignificance

    if model.guided is None or not (images := data.examples()):
        return []
    pixels = [image if isinstance(image, torch.Tensor) else pil_to_tensor(image) for image in images]
    shown = [model.preprocessing.show(image) for image in images]
    return [WatchSignificance(folder, shown, model.normalize(torch.stack(pixels)))]


def _report(folder: Path) -> None:
    """Write the page about the run; a failure is printed and does not fail the run."""
    from .report import report

    try:
        report(folder)
    except Exception as error:
        print(f"sgformer: no report.html: {' '.join(str(error).split())}; try: sgformer report {folder}")


def to_share(recipe: Recipe) -> dict[str, Any]:
    """A recipe for the metadata of weights, which are shared: without paths of this machine."""
    content = _without_places(recipe)
    if recipe.model.weights:
        content["model"]["weights"] = Path(recipe.model.weights).name
    return content


def _without_places(section: Any) -> dict[str, Any]:
    """A section of a recipe with the default in place of each absolute path; root and roots have none."""
    from ..engine.recipe import to_dict

    content = to_dict(section)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            content[field.name] = _without_places(value)
        elif field.name in ("root", "roots"):
            content[field.name] = None if field.name == "root" else {}
        elif isinstance(value, str) and _is_absolute(value):
            content[field.name] = field.default
    return content


def _is_absolute(path: str) -> bool:
    return path.startswith(("~", "file:")) or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()
