"""What happens beside the training loop: averaged weights, the run folder, progress, the stop at a NaN."""

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from torch import Tensor, nn

from .weights import write_atomically

# Where progress is not drawn but printed, a line this often, beside one after each epoch.
SECONDS_BETWEEN_LINES = 60.0


class LossError(RuntimeError):
    """The loss stopped being a number."""


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and saved.

    Lightning's callback swaps the averaged weights in for validation and stores both kinds in a checkpoint.
    Added here is a decay that starts low, so that a short run does not validate its initial values: after
    step t it is ``min(decay, (1 + t) / (10 + t))``.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
            if not averaged[0].is_floating_point():  # BatchNorm counts its batches
                for old, new in zip(averaged, current, strict=True):
                    old.copy_(new)
                return
            step = int(num_averaged)
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + step) / (10 + step)))  # pyright: ignore

        super().__init__(multi_avg_fn=average)

    def averaged(self, module: LightningModule) -> LightningModule:
        """The module with averaged weights; ``module`` itself before there is one."""
        if self._average_model is None:
            return module
        return self._average_model.module  # pyright: ignore[reportReturnType]


class StopAtNaN(Callback):
    """Ends the run at the first loss that is not a number, before it spoils the weights."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss of every step."""
        if not torch.isfinite(loss):
            step, epoch = trainer.global_step, trainer.current_epoch + 1
            raise LossError(
                f"the loss is {loss.item()} at step {step}, in epoch {epoch}; "
                "try a lower --optim.lr, a longer --optim.warmup_epochs, or --trainer.precision 32-true"
            )


class RunFolder(Callback):
    """Writes what a run leaves behind, after every epoch: ``metrics.csv``, ``last`` and ``best.safetensors``.

    Args:
        folder: The run folder.
        save: Writes the weights of a module to a path, with its metrics as metadata.
        monitor: The metric that decides which epoch is best; higher is better.
        averaged: The averaged weights, where there are any.
    """

    def __init__(
        self,
        folder: Path,
        save: Callable[[nn.Module, Path, dict[str, float]], None],
        *,
        monitor: str,
        averaged: AveragedWeights | None,
    ) -> None:
        self.folder, self.save, self.monitor, self.average = folder, save, monitor, averaged
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes one row and the weights; validation is over by now."""
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self.start
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "seconds": round(seconds, 2)}
        row |= {"lr": float(f"{max(group['lr'] for group in trainer.optimizers[0].param_groups):.6g}")}
        # Lightning keeps a mean over the epoch under the plain name, and copies with a suffix.
        row |= {
            name: float(f"{value:.6g}")
            for name, value in metrics.items()
            if not name.endswith(("_step", "_epoch"))
        }
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        write_atomically(self.folder / "metrics.csv", to_csv(self.rows).encode())
        module = self.average.averaged(pl_module) if self.average else pl_module
        self.save(module, self.folder / "last.safetensors", row)
        if self.monitor in row and row[self.monitor] > self.best.get(self.monitor, -math.inf):
            self.best = row
            self.save(module, self.folder / "best.safetensors", row)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the rows so far and the best of them."""
        return {"rows": self.rows, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.rows, self.best = state_dict["rows"], state_dict["best"]


class RunProgress(Callback):
    """One bar for the whole run on a terminal, with rate, time left and metrics; plain lines anywhere else.

    Args:
        run: What wrote the epoch's row, before this callback's turn.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.console = get_console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            expand=True,
        )
        self.task = TaskID(0)
        self.num_samples = self.num_batches = 0
        self.started = self.epoch_started = self.spoken = self.train_seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar."""
        self.started = time.perf_counter()
        self.first_epoch = trainer.current_epoch
        self.task = self.bar.add_task("", total=1, text="")
        self.bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Empties the bar."""
        self.num_samples = self.num_batches = 0
        self.epoch_started = self.spoken = time.perf_counter()
        self.bar.reset(
            self.task, total=int(trainer.num_training_batches), description=_epoch(trainer), text=""
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line where it has been silent for a minute."""
        self.num_samples += len(batch[0])
        self.num_batches += 1
        now = time.perf_counter()
        self.train_seconds = now - self.epoch_started
        left = self._seconds_left(trainer, now)
        text = f"{self.num_samples / self.train_seconds:.0f} pictures/s · {_clock(left)} left"
        if (loss := trainer.callback_metrics.get("train_loss_step")) is not None:
            text += f" · loss {loss.item():.3f}"
        if self.bar.disable:
            if now - self.spoken > SECONDS_BETWEEN_LINES:
                self.spoken = now
                self._print(
                    f"{_epoch(trainer)}  batch {self.num_batches}/{trainer.num_training_batches} · {text}"
                )
        else:
            self.bar.update(self.task, completed=self.num_batches, text=text)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says why the bar stands still."""
        if self.bar.tasks:
            self.bar.update(self.task, text="validating ...")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch's line."""
        now = time.perf_counter()
        metrics = " · ".join(
            f"{name} {value:.4g}"
            for name, value in self.run.rows[-1].items()
            if name.startswith(("train", "val"))
        )
        rate = self.num_samples / self.train_seconds
        mark = " *" if self.run.best is self.run.rows[-1] else ""
        left = self._seconds_left(trainer, now)
        self._print(f"{_epoch(trainer)}  {metrics} · {rate:.0f} pictures/s · {_clock(left)} left{mark}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the bar away."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes the bar away, before the error is printed."""
        self.bar.stop()

    def _seconds_left(self, trainer: Trainer, now: float) -> float:
        per_epoch = max(int(trainer.num_training_batches), 1)
        done = trainer.current_epoch - self.first_epoch + self.num_batches / per_epoch
        total = (trainer.max_epochs or 0) - self.first_epoch
        return (now - self.started) * (total - done) / max(done, 1e-9)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def to_csv(rows: list[dict[str, float]]) -> str:
    """A table with the columns of all rows, in the order in which they first appear."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _epoch(trainer: Trainer) -> str:
    width = len(str(trainer.max_epochs))
    return f"epoch {trainer.current_epoch + 1:{width}}/{trainer.max_epochs}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
