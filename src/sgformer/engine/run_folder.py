"""Files of a run folder: what it takes to repeat the run, and what is written after every epoch."""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import get_console
from torch import nn

from .environment import environment
from .files import to_csv, write_atomically


def say(line: str) -> None:
    """Print a line as it is, on the console that a progress bar may share."""
    get_console().print(line, highlight=False, markup=False, soft_wrap=True)


def write_description(folder: Path, recipe_yaml: str, data: str, precision: str) -> None:
    """Leave in the run folder what it takes to repeat the run: ``recipe.yaml`` and ``environment.json``.

    The latter also holds what ``data``, in words, the run learns from, the precision that it computes in, and the
    working directory; see `data_of`, `precision_before` and `moved`.
    """
    write_atomically(folder / "recipe.yaml", recipe_yaml.encode())
    run = {"data": data, "precision": precision, "directory": os.getcwd()}
    write_atomically(folder / "environment.json", (json.dumps(environment() | run, indent=2) + "\n").encode())


def data_of(folder: Path) -> str | None:
    """Give in words the data that a run learned from last; None where it does not say."""
    return _described(folder).get("data")


def precision_before(folder: Path) -> str | None:
    """Give the precision that a run computed in last; None where it does not say."""
    return _described(folder).get("precision")


def moved(folder: Path, root: str | Path | None) -> str | None:
    """Say that a run's relative data folder lies elsewhere from here; None where it does not, or nothing tells."""
    before, here = _described(folder).get("directory"), os.getcwd()
    if not root or Path(root).expanduser().is_absolute() or before in (None, here):
        return None
    return f"data.root {root} is looked for in {here}; the run had it in {before}"


def _described(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


class Describe(Callback):
    """Writes the description of a resumed run once its checkpoint was taken up; a failure leaves the old one."""

    def __init__(self, folder: Path, *described: str) -> None:
        self.folder, self.described = folder, described

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes it."""
        write_description(self.folder, *self.described)


class RunFolder(Callback):
    """Writes ``metrics.csv``, ``last`` and ``best.safetensors`` after every epoch.

    ``kept`` takes what is kept of a task, in all processes: the model, with averaged weights if there are any. ``save``
    writes its weights to a path, with metrics as metadata; those that are not finite are None. The highest ``monitor``
    is the best; one that is not finite never is. Of ``keep_best`` epochs weights are kept; those after the best are
    ``epoch-<number>.safetensors``.
    """

    def __init__(
        self,
        folder: Path,
        kept: Callable[[LightningModule], nn.Module],
        save: Callable[[nn.Module, Path, dict[str, Any]], None],
        *,
        monitor: str,
        keep_best: int = 1,
    ) -> None:
        self.folder, self.kept, self.save, self.monitor = folder, kept, save, monitor
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.keep_best = keep_best
        self.validated = False  # in this epoch
        self.not_finite: set[str] = set()  # metrics that have been warned of
        self.start = time.perf_counter()
        self.seconds_before = 0.0  # of this epoch, in the run that was interrupted

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.start, self.seconds_before = time.perf_counter(), 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that there are metrics of this epoch."""
        self.validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes one row and the weights; validation is over by now."""
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not self.validated:  # what Lightning still keeps is an earlier epoch's
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val_")}
        self.validated = False
        seconds = self.seconds_before + time.perf_counter() - self.start
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "seconds": round(seconds, 2)}
        row |= {"lr": float(f"{max(group['lr'] for group in trainer.optimizers[0].param_groups):.6g}")}
        # Lightning keeps a mean over the epoch under the plain name, and copies with a suffix.
        row |= {
            name: float(f"{value:.6g}") for name, value in metrics.items() if not name.endswith(("_step", "_epoch"))
        }
        self.rows.append(row)
        model = self.kept(pl_module)
        if not trainer.is_global_zero:
            return
        write_atomically(self.folder / "metrics.csv", to_csv(self.rows).encode())
        self._warn(row)
        self.save(model, self.folder / "last.safetensors", _known(row))
        if not math.isfinite(row.get(self.monitor, math.nan)):
            return
        if row[self.monitor] > self.best.get(self.monitor, -math.inf):
            self.best = row
            self.save(model, self.folder / "best.safetensors", _known(row))
        if self.keep_best > 1:
            self._keep(model, row)

    def _warn(self, row: dict[str, float]) -> None:
        """Names metrics that are not finite, each once."""
        for name in [name for name, value in _known(row).items() if value is None]:
            if name not in self.not_finite:
                self.not_finite.add(name)
                never = ", but such an epoch is never the best" * (name == self.monitor)
                say(f"warning: {name} is {row[name]} in epoch {row['epoch']:.0f}; the run goes on{never}")

    def _keep(self, model: nn.Module, row: dict[str, float]) -> None:
        rows = [r for r in self.rows if math.isfinite(r.get(self.monitor, math.nan))]
        ranked = sorted(rows, key=lambda r: r[self.monitor], reverse=True)
        kept = [r["epoch"] for r in ranked[: self.keep_best]]
        if row["epoch"] in kept:
            self.save(model, self.folder / f"epoch-{row['epoch']:.0f}.safetensors", _known(row))
        for path in self.folder.glob("epoch-*.safetensors"):
            if int(path.stem.removeprefix("epoch-")) not in kept:
                path.unlink()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the rows so far and the best of them."""
        seconds = self.seconds_before + time.perf_counter() - self.start
        return {"rows": self.rows, "best": self.best, "seconds": seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.rows, self.best = state_dict["rows"], state_dict["best"]
        self.seconds_before = state_dict["seconds"]


def _known(row: dict[str, float]) -> dict[str, float | None]:
    """A row for JSON, which has no word for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
