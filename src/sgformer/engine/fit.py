"""A training run with Lightning, from a prepared task and its data to a run folder."""

import contextlib
import importlib.util
import re
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from . import devices
from .callbacks import AveragedWeights, ChooseThreads, StopAtNaN, ValidateEvery
from .checkpoints import CHECKPOINT, AtomicCheckpointIO, Checkpoints, SeededSteps
from .files import numbered
from .progress import RunProgress
from .quiet import errors_only
from .run_folder import RunFolder


@dataclass(kw_only=True)
class TrainerOptions:
    """Options of the trainer: how long, how precise, and on what.

    Attributes:
        max_epochs: Passes over the training images.
        precision: auto is bf16-mixed on a GPU, or a processor, that has instructions for bfloat16; else 32-true.
        accelerator: auto takes a GPU where there is one.
        devices: How many processes on this machine, or auto for one per GPU; with accelerator cpu also on a CPU, where
            two processes of one thread train faster than one of two.
        num_nodes: How many machines, each started by torchrun or SLURM.
        strategy: auto is one process, or ddp where there are several.
        sync_batch_norm: Whether batch norms take mean and variance over the batch of all processes, not over each one's
            share; on GPUs alone.
        accumulate: Batches per step of the optimizer, where a batch of the wanted size does not fit in memory.
        clip_grad: Largest norm of the gradient; null: any.
        ema_decay: Decay of the averaged weights, which are then validated and saved; null: no average.
        checkpoint_minutes: How often a checkpoint is written within an epoch, beside the one after it; null: never.
        keep_best: How many of the best epochs' weights are kept; the best one is best.safetensors.
        validate_every: Epochs from one validation to the next, where it takes long beside an epoch; the last epoch is
            always validated. What is best is chosen among those that were.
        significance: Whether each validation draws what is significant in a few images, for models that know it.
        report: Whether the run ends with report.html, which evaluates the best weights once more; `sgformer report RUN`
            makes it at any time.
        tensorboard: Whether scalars and images also go to TensorBoard files, in the run folder.
        compile: Compile the model with torch.compile; slow at first, faster after.
        kernels: Compute by kernels in C++ that are compiled first, see `sgformer.fast.use_kernels`: faster, on a CPU
            with AVX-512 and where there is a C++ compiler, with precision 32-true.
        grad_checkpointing: Compute the blocks of the backbone once more in the backward pass rather than keep what they
            computed: less memory for more time.
        channels_last: Keep images, maps and kernels in the order of memory in which channels come last, which many
            convolutional models are faster in; sgformer's always are.
        limit_train_batches: Fewer batches per epoch, as a number or a fraction, to try things out.
        limit_val_batches: The same for validation.
    """

    max_epochs: int = 10
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    sync_batch_norm: bool = False
    accumulate: int = 1
    clip_grad: float | None = None
    ema_decay: float | None = None
    checkpoint_minutes: float | None = 10.0
    keep_best: int = 1
    validate_every: int = 1
    significance: bool = True
    report: bool = True
    tensorboard: bool = True
    compile: bool = False
    kernels: bool = False
    grad_checkpointing: bool = False
    channels_last: bool = False
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None

    def __post_init__(self) -> None:
        if self.max_epochs < 1 or self.accumulate < 1:
            raise ValueError(
                f"trainer.max_epochs {self.max_epochs} and trainer.accumulate {self.accumulate}: "
                "both must be at least 1"
            )
        if not re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+", str(self.devices)):
            raise ValueError(
                f"trainer.devices {self.devices} is neither a number of processes, such as 2, nor auto, nor GPUs by "
                "number, such as 0,2"
            )
        if self.validate_every < 1:
            raise ValueError(f"trainer.validate_every {self.validate_every} must be at least 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"trainer.ema_decay {self.ema_decay} is outside (0, 1); null turns the average off")
        if self.strategy not in ("auto", "ddp"):
            raise ValueError(
                f"trainer.strategy {self.strategy} is neither auto nor ddp; fsdp is gone, since all models here fit on "
                "one GPU: set --trainer.strategy auto"
            )


def is_first_process() -> bool:
    """Whether this process is the one that writes; the others of a distributed run only compute."""
    return getattr(rank_zero_only, "rank", 0) == 0


def new_folder(out: str | Path, name: str) -> Path:
    """Make the folder of a new run: ``out/name``, else ``out/name-2`` and so on; never an existing one."""
    for folder in (Path(out) / each for each in numbered(name)):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.is_dir():
                raise
        else:
            return folder
    raise AssertionError("there is always another name")


# Warnings of Lightning and PyTorch about devices, worker counts and other products, on which no user can act.
_SILENT: tuple[dict[str, Any], ...] = (
    {"module": r"lightning\..*_pytree"},
    {"module": r"lightning\..*", "message": r".*(does not have many workers|exists and is not empty).*"},
    {"module": r"lightning\..*", "message": r".*number of training batches.*"},
    # What is logged at the end of a validation was added up over the processes before.
    {"module": r"lightning\..*", "message": r"It is recommended to use .*sync_dist=True"},
    # Shards know how many samples each worker gives.
    {"message": r"Your `IterableDataset` has `__len__` defined"},
    # Kernels of depthwise convolutions have one shape and many equivalent strides.
    {"message": r"Grad strides do not match bucket view strides"},
)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings and logs that no user can act on; restore filters and loggers afterwards."""
    with warnings.catch_warnings(), errors_only("lightning.pytorch", "lightning.fabric", "lightning"):
        for silent in _SILENT:
            warnings.filterwarnings("ignore", **silent)
        yield


@_quiet()
def fit(
    task: LightningModule,
    data: LightningDataModule,
    options: TrainerOptions,
    folder: Path,
    *,
    recipe: Mapping[str, Any],
    seed: int = 0,
    watchers: Sequence[Callback] = (),
    resume: bool = False,
) -> dict[str, float]:
    """Train, leave weights, metrics and a checkpoint in the run folder, and give the metrics of the best epoch.

    The task has ``model``, whose ``save(path, recipe=, metrics=)`` writes a weights file, and ``monitor``, the name of
    the logged metric that decides which epoch is best. The whole ``recipe`` is for the weights' metadata, ``seed`` for
    the randomness of the steps. ``watchers`` are more callbacks, which see each epoch with the weights that are
    validated. LossError where the loss stopped being a number; KeyboardInterrupt where someone pressed Ctrl-C; the last
    full epoch can be resumed from.
    """
    average = AveragedWeights(options.ema_decay) if options.ema_decay else None

    def kept(module: LightningModule) -> Any:
        return average.averaged(module).model if average else module.model

    def save(model: Any, path: Path, metrics: dict[str, Any]) -> None:
        model.save(path, recipe=recipe, metrics=metrics)

    run = RunFolder(folder, kept, save, monitor=str(task.monitor), keep_best=options.keep_best)
    # The averaged weights first: they are in place when the others look at a validation.
    callbacks = [c for c in (average, StopAtNaN(), *watchers, run, RunProgress(run)) if c]
    callbacks += [SeededSteps(seed), Checkpoints(folder, minutes=options.checkpoint_minutes)]
    if not options.compile:  # which would compile once more for each number of threads
        callbacks.append(ChooseThreads())
    callbacks += [ValidateEvery(options.validate_every)] if options.validate_every > 1 else []
    trainer = Trainer(
        max_epochs=options.max_epochs,
        precision=precision_of(options),
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        sync_batchnorm=options.sync_batch_norm,
        use_distributed_sampler=False,  # our loaders know their share
        plugins=[AtomicCheckpointIO()],
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=options.clip_grad,
        limit_train_batches=options.limit_train_batches,
        limit_val_batches=options.limit_val_batches,
        callbacks=callbacks,
        logger=_logger(folder) if options.tensorboard else False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    if resume and is_first_process():
        for stale in folder.glob(".*.[0-9]*"):  # half-written files of a process that was killed
            stale.unlink(missing_ok=True)
    checkpoint_path = str(folder / CHECKPOINT) if resume else None
    # Only tensors and plain values are in our checkpoints, so nothing else may be unpickled from one.
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint_path, weights_only=True if resume else None)
    except SystemExit:  # what Lightning makes of Ctrl-C, after which it ignores any other
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # The first process evaluates the best weights for the report alone; the others have left by then.
        torch.distributed.destroy_process_group()
    return run.best or run.rows[-1]


def prepare(task: LightningModule, options: TrainerOptions) -> None:
    """Set up a model as the recipe's section ``trainer`` asks: checkpointing, memory format, compilation.

    ValueError where task, backbone or machine do not offer it.
    """
    if options.precision == "bf16-mixed" and not devices.has_bfloat16(options.accelerator):
        warnings.warn(
            "there are no instructions for bfloat16 here, so that float32 is probably much faster: "
            "--trainer.precision 32-true",
            stacklevel=1,
        )
    if options.kernels and (precision := precision_of(options)) != "32-true":
        raise ValueError(
            f"trainer.kernels are for a CPU in float32, and this trains in {precision}; leave it out, or set "
            "--trainer.accelerator cpu --trainer.precision 32-true"
        )
    model = task.get_submodule("model")
    backbone = model.get_submodule("backbone")
    if options.grad_checkpointing:
        # Around the model, timm's feature extractors may have none.
        able = [part for part in backbone.modules() if hasattr(part, "set_grad_checkpointing")]
        try:
            cast(Any, able[0]).set_grad_checkpointing()
        except (IndexError, AssertionError) as error:  # timm asserts that nobody asks
            raise ValueError(
                f"model {getattr(model, 'name', '')} has no gradient checkpointing; "
                "set --trainer.grad_checkpointing false, and a lower --data.batch_size"
            ) from error
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        backbone.register_forward_pre_hook(_channels_last)
    if options.compile:
        model.compile()


def _channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


def _logger(folder: Path) -> Any:
    """Lightning's logger for TensorBoard, where that is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


def precision_of(options: TrainerOptions) -> Any:
    """Lightning's name of the precision that a run computes in on this machine."""
    if options.precision != "auto":
        return options.precision
    return "bf16-mixed" if devices.has_bfloat16(options.accelerator) else "32-true"
