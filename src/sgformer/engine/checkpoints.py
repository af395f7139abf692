"""Checkpoints to resume from at any time, written atomically: a failed save leaves the old one."""

import errno
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from .files import replacing
from .sampling import fold, seed_all
from .weights import read_metadata

CHECKPOINT = "last.ckpt"
# Whether it is time for a checkpoint is asked every so many batches, because all processes must agree on it.
BATCHES_BETWEEN_LOOKS = 10


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint atomically: beside the old one, then renamed.

    Lightning writes to the system's temporary folder and moves from there: no rename where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves, or leaves the old file and an error that says what to do."""
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
            raise OSError(_why_not_saved(Path(path), checkpoint, error)) from error


class Checkpoints(Checkpoint):
    """Writes ``last.ckpt`` after every epoch and, unless ``minutes`` is None, every so many minutes within one."""

    def __init__(self, folder: Path, *, minutes: float | None) -> None:
        self.path, self.minutes = folder / CHECKPOINT, minutes
        self.saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves where it is time, between two steps of the optimizer."""
        every = trainer.accumulate_grad_batches
        if self.minutes is None or trainer.is_last_batch or (batch_idx + 1) % every:
            return
        if self.minutes > 0 and (batch_idx + 1) // every % BATCHES_BETWEEN_LOOKS:
            return
        due = time.monotonic() - self.saved >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, after all that belongs to the epoch was written."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()


class SeededSteps(Checkpoint):
    """Seed the random generators at each step, so that a resumed run draws what an unbroken one would."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seeds by epoch, batch and process."""
        seed_all(fold(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))


def check_space(folder: Path, model: nn.Module, *, keep_best: int = 1) -> None:
    """Make sure that the disk has room for a run, before it begins; OSError where it has not.

    That is two checkpoints, the old and the new one, each with weights, their average and two numbers of the optimizer
    for each of them; the last weights; and those of the ``keep_best`` best epochs, of several the best one twice.
    """
    needed = (2 * 4 + 1 + keep_best + (keep_best > 1)) * sum(parameter.nbytes for parameter in model.parameters())
    there = [path for pattern in (CHECKPOINT, "*.safetensors") for path in folder.glob(pattern)]
    needed -= sum(path.stat().st_size for path in there)  # of a run that goes on
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            f"the disk of {folder} has {free / 1e6:.0f} MB free, but the run may take {needed / 1e6:.0f} MB for "
            f"checkpoints and weights; free some space{'' if there else ', or write elsewhere: --out FOLDER'}"
        )


def check_fits(folder: Path, task: nn.Module, *, averages: bool) -> None:
    """Make sure that a run's checkpoint belongs to a task, before anything in its folder is changed.

    ValueError where it is another model's, was made with or without averaged weights otherwise, or is none of ours.
    """
    path = folder / CHECKPOINT
    remedy = f"resume it as it was begun, or start anew from its weights: --model.weights {folder}"
    content = _read(path)
    others = content["shapes"]
    own = {name: tensor.shape for name, tensor in task.state_dict().items()}
    unlike = sorted(name for name in own.keys() | others.keys() if own.get(name) != others.get(name))
    if unlike:
        first = unlike[0]
        raise ValueError(
            f"{path} is of another model, or of other classes: {first} is {_shape(others, first)} there and "
            f"{_shape(own, first)} here ({len(unlike)} of {len(own | others)} differ); {remedy}"
        )
    if averages != ("current_model_state" in content):
        raise ValueError(f"{path} was made {'without' if averages else 'with'} trainer.ema_decay; {remedy}")
    saved = folder / "last.safetensors"
    now = [*getattr(task.get_submodule("model"), "classes", ())]
    if saved.is_file() and (classes := [*read_metadata(saved)["classes"]]) != now:
        i = next(i for i, name in enumerate(classes) if name != now[i])
        raise ValueError(f"{path} has learned {classes[i]!r} as class {i}, which is {now[i]!r} now; {remedy}")


def epochs_begun(folder: Path) -> int:
    """Count the epochs that a run had begun when its checkpoint was written."""
    return _read(folder / CHECKPOINT)["epoch"] + 1


def _read(path: Path) -> dict[str, Any]:
    """Read what a checkpoint holds, with the ``shapes`` of its tensors."""
    try:
        # Mapped, so that nothing large is read; only tensors and plain values are in ours.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        shapes = {name: tensor.shape for name, tensor in content["state_dict"].items()}
        return {**content, "epoch": int(content["epoch"]), "shapes": shapes}
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no checkpoint of this package, or damaged; nothing in it was run. Copy it again, or start anew "
            f"from the weights: --model.weights {path.parent}"
        ) from error


def _shape(shapes: dict[str, Any], name: str) -> str:
    return "x".join(map(str, shapes[name])) or "a number" if name in shapes else "missing"


def _why_not_saved(path: Path, checkpoint: dict[str, Any], error: BaseException) -> str:
    needed = sum(value.nbytes for value in tensors_in(checkpoint))
    kept = f"the one from before is unharmed: {path}" if path.exists() else "there is none yet"
    cause: BaseException | None = error
    while cause and not isinstance(cause, OSError):  # under the error that torch makes of it
        cause = cause.__context__
    if cause and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"no checkpoint could be written to {path.parent} ({cause.strerror}; it takes {needed / 1e6:.0f} MB); "
            f"{kept}. Free some space, then go on: sgformer train --resume {path.parent}"
        )
    text = (cause and cause.strerror) or " ".join(str(error).split())
    return (
        f"no checkpoint could be written to {path.parent} ({text}); {kept}. "
        f"Make the folder writable, then go on: sgformer train --resume {path.parent}"
    )


def tensors_in(content: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, lists and tuples."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(value)
