"""Progress of a run on the console."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from .run_folder import RunFolder, say

# Where progress is not drawn but printed, a line this often, beside one after each epoch.
SECONDS_BETWEEN_LINES = 60.0


class RunProgress(Callback):
    """Show one bar for the whole run on a terminal, with rate, time left and metrics; plain lines anywhere else."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run  # which has written the epoch's row before this callback's turn
        console = get_console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )
        self.task = TaskID(0)
        self.first = 0.0
        self.num_samples = self.num_batches = 0
        self.started = self.epoch_started = self.spoken = self.train_seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        self.started = self.epoch_started = self.spoken = time.perf_counter()
        # A resumed run may begin within an epoch; after a whole one, its batches still count as done.
        per_epoch = max(int(trainer.num_training_batches), 1)
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed % per_epoch
        self.first = trainer.current_epoch + done / per_epoch
        self.task = self.bar.add_task("", total=1, text="")
        self.bar.start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Empties the bar."""
        self.num_samples = self.num_batches = 0
        self.epoch_started = self.spoken = time.perf_counter()
        self.bar.reset(self.task, total=int(trainer.num_training_batches), description=_epoch(trainer), text="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line where it has been silent for a minute."""
        self.num_samples += len(batch[0]) * trainer.world_size
        self.num_batches = batch_idx + 1
        now = time.perf_counter()
        self.train_seconds = now - self.epoch_started
        if self.bar.disable and now - self.spoken <= SECONDS_BETWEEN_LINES:
            return  # to read the loss is to wait for the GPU
        left = self._seconds_left(trainer, now)
        text = f"{image_rate(self.num_samples / self.train_seconds)} · {_clock(left)} left"
        if (loss := trainer.callback_metrics.get("train_loss_step")) is not None:
            text += f" · loss {loss.item():.3f}"
        if self.bar.disable:
            self.spoken = now
            say(f"{_epoch(trainer)}  batch {self.num_batches}/{trainer.num_training_batches} · {text}")
        else:
            self.bar.update(self.task, completed=self.num_batches, text=text)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that validation runs."""
        if self.bar.tasks:
            self.bar.update(self.task, text="validating ...")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show that weights are saved."""
        if self.bar.tasks:
            self.bar.update(self.task, text="saving ...")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch's line."""
        now = time.perf_counter()
        metrics = " · ".join(
            f"{name} {value:.3g}" for name, value in self.run.rows[-1].items() if name.startswith(("train", "val"))
        )
        rate = image_rate(self.num_samples / self.train_seconds)
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        left = "" if is_last else f" · {_clock(self._seconds_left(trainer, now))} left"
        mark = " · best" if self.run.best is self.run.rows[-1] else ""
        say(f"{_epoch(trainer)}  {metrics} · {rate}{left}{mark}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the bar before the error is printed."""
        self.bar.stop()

    def _seconds_left(self, trainer: Trainer, now: float) -> float:
        per_epoch = max(int(trainer.num_training_batches), 1)
        done = trainer.current_epoch - self.first + self.num_batches / per_epoch
        total = (trainer.max_epochs or 0) - self.first
        return (now - self.started) * (total - done) / max(done, 1e-9)


def _epoch(trainer: Trainer) -> str:
    width = len(str(trainer.max_epochs))
    return f"epoch {trainer.current_epoch + 1:{width}}/{trainer.max_epochs}"


def image_rate(images: float) -> str:
    """Write a speed as images a second, or as seconds an image where each takes more than ten."""
    if images < 0.1:
        return f"{1 / max(images, 1e-9):.0f} s an image"
    return f"{images:.{0 if images >= 10 else 1}f} images/s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
