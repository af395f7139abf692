"""Callbacks: averaged weights (EMA), a stop at NaN, unreadable images, the number of threads."""

import contextlib
import math
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import devices
from .checkpoints import tensors_in
from .files import to_csv, write_atomically
from .run_folder import say
from .threads import Threads

# So many training images in a row that cannot be read are no accident: a disk is gone, say.
MAX_IN_A_ROW = 8


class LossError(RuntimeError):
    """The loss stopped being a number."""


class UnreadableError(RuntimeError):
    """More images cannot be read than the recipe puts up with."""


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and saved.

    Lightning's callback swaps it in for validation. Added is a decay that starts low, so that a short run does not
    validate its initial values: after step t it is ``min(decay, (1 + t) / (10 + t))``.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
            # Where the weights are on a GPU, the count handed over is, too, and to read it would be to wait for it.
            step = int(num_averaged if self.average is None else self.average.n_averaged)
            get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))(averaged, current, num_averaged)

        super().__init__(multi_avg_fn=average)

    @property
    def average(self) -> AveragedModel | None:
        """The average, found by its type, as Lightning's callback has no public name for it; None before a run."""
        return next((value for value in vars(self).values() if isinstance(value, AveragedModel)), None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average where the model is: Lightning copies the model before that has gone to its device."""
        assert self.average is not None
        self.average.module.to(pl_module.device)

    def averaged(self, module: LightningModule) -> LightningModule:
        """The module with averaged weights; ``module`` itself before there is one."""
        return module if self.average is None else cast(LightningModule, self.average.module)


class StopAtNaN(Callback):
    """Ends the run, in all processes, at the first loss that is not a number, and says where it began."""

    batch: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remembers the batch."""
        self.batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss of every step, in all processes."""
        finite = bool(torch.isfinite(loss))
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        with trainer.precision_plugin.forward_context():
            origin = find_origin(pl_module, self.batch, finite=finite)
        (value, *_) = (value for value in devices.gathered(loss.item()) if not math.isfinite(value))
        raise LossError(
            f"the loss is {value} at step {trainer.global_step}, in epoch {trainer.current_epoch + 1}; {origin}; "
            "try a lower --optim.lr, a longer --optim.warmup_epochs, or --trainer.precision 32-true"
        )


@torch.no_grad()
def find_origin(module: LightningModule, batch: Any, *, finite: bool = False) -> str:
    """The first tensor on the way to the loss that holds a NaN or an infinity, in words; alike in all processes.

    Looks at the weights, then at the batch, then at what each layer gives when ``module.loss(batch)`` is computed once
    more. ``finite`` says whether the loss of this process is a number.
    """
    spoilt = next((name for name, p in module.named_parameters() if not torch.isfinite(p).all()), None)
    if spoilt:  # in every process, since all hold the same weights
        return f"the weights {spoilt} are no longer finite, so an earlier step went too far"
    origin = _first_layer(module, batch)
    if _not_finite(batch):
        origin = "the images or targets of the batch themselves are not finite"
    origins = devices.gathered(None if finite else origin)
    number, origin = next((i, found) for i, found in enumerate(origins) if found)
    return origin if len(origins) == 1 else f"{origin} (in process {number} of {len(origins)})"


def _first_layer(module: LightningModule, batch: Any) -> str:
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not found and _not_finite(output):
                found.append(f"the first tensor that is not finite is the output of {name} ({type(layer).__name__})")

        return hook

    hooks = [layer.register_forward_hook(look(name)) for name, layer in module.named_modules() if name]
    try:
        with contextlib.suppress(Exception):  # what is broken may well not compute
            getattr(module, "loss")(batch)  # noqa: B009 (no LightningModule has it by its type)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "all layers give finite numbers, so it is the loss itself"


def _not_finite(content: Any) -> bool:
    return any(not torch.isfinite(tensor).all() for tensor in tensors_in(content))


class ValidateEvery(Callback):
    """Validates after every so many epochs, and after the last one, which Lightning's own setting would leave out."""

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs = num_epochs

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tells Lightning, which asks after each batch; a resumed run may begin within an epoch."""
        number = trainer.current_epoch + 1
        due = number % self.num_epochs == 0 or number == trainer.max_epochs
        # No epoch's number is a multiple of the next one.
        trainer.check_val_every_n_epoch = 1 if due else number + 1


class CountUnreadable(Callback):
    """Names the images that cannot be read in ``unreadable.csv``, and ends the run where they are too many.

    Batches that leave images out carry them as ``batch.unreadable``, a tuple of (path, reason). The run ends beyond
    ``max_share`` of ``num_images``, those of training and validation together, and in training after more than
    `MAX_IN_A_ROW` without one in between that can be read.
    """

    def __init__(self, folder: Path, *, num_images: int, max_share: float) -> None:
        self.folder, self.num_images, self.max_share = folder, num_images, max_share
        self.found: dict[str, str] = {}
        self.in_a_row = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agrees on the folder, whose name the first process has found."""
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks at each training batch."""
        self._look(trainer, batch)
        if not (unreadable := getattr(batch, "unreadable", ())) or len(batch[0]):
            self.in_a_row = 0
            return
        self.in_a_row += len(unreadable)
        if self.in_a_row > MAX_IN_A_ROW:
            path, reason = unreadable[-1]
            raise UnreadableError(
                f"none of {self.in_a_row} images in a row can be read, such as {path}: {reason}; they are listed in "
                f"{self.folder / self._name(trainer)}: mend them, or leave them out"
            )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks at each validation batch."""
        self._look(trainer, batch)

    def _look(self, trainer: Trainer, batch: Any) -> None:
        new = {path: reason for path, reason in getattr(batch, "unreadable", ()) if path not in self.found}
        if not new:
            return
        self.found |= new
        name = self._name(trainer)
        rows = [{"path": path, "reason": reason} for path, reason in sorted(self.found.items())]
        write_atomically(self.folder / name, to_csv(rows).encode())
        for path, reason in new.items():
            say(f"left out: {path}: {reason}")
        # Images are shared out anew in every epoch, so that each process may come to see all of them.
        if len(self.found) > self.max_share * self.num_images:
            path, reason = next(iter(new.items()))
            raise UnreadableError(
                f"{len(self.found)} of {self.num_images} images cannot be read, such as {path}: {reason}; that is "
                f"more than data.max_unreadable {self.max_share:.2%}; they are listed in "
                f"{self.folder / name}: mend them, or allow more, such as "
                f"--data.max_unreadable {min(2 * len(self.found) / self.num_images, 1):.2g}"
            )

    @staticmethod
    def _name(trainer: Trainer) -> str:
        """The table of this process, which sees its own share."""
        return "unreadable.csv" if trainer.global_rank == 0 else f"unreadable-{trainer.global_rank}.csv"

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: those found so far."""
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.found = state_dict["found"]


class ChooseThreads(Callback):
    """Has a run of one process on a CPU compute with as many `Threads` as do not wait for each other."""

    def __init__(self, threads: Threads | None = None) -> None:
        self.threads = threads or Threads(say)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learns how many threads there are to choose from."""
        self.threads.start(pl_module.device, trainer.world_size)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Looks for the best number of threads before a training step, where it is time."""
        self.threads.before_step()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Looks for the best number of threads before a validation step, where it is time."""
        self.threads.before_step()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the number of threads as it was before the run."""
        self.threads.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the number of threads as it was, also where a run fails."""
        self.threads.stop()
