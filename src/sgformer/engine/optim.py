"""Optimizer and learning-rate schedule."""

# pyright: reportPrivateImportUsage=false
# (timm.optim has no __all__, so its public functions look private.)

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from timm.optim import create_optimizer_v2, list_optimizers, muon, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .devices import processor_has_bfloat16
from .recipe import Plain, nearest


@dataclass(kw_only=True)
class OptimOptions:
    """Options of the optimizer and its learning-rate schedule.

    Attributes:
        name: Any optimizer of timm, such as adamw, lamb or sgd.
        lr: Highest learning rate, for the batch size as it is: nothing is scaled behind your back.
        weight_decay: Decay of weight matrices. Biases, norms and positions are never decayed.
        layer_decay: Factor on the learning rate from a layer to the one below, for fine-tuning; null: none.
        warmup_epochs: Epochs in which the learning rate rises; fractions are fine.
        warmup_lr: Learning rate that it rises from.
        final_lr: Learning rate at the end of the cosine that follows.
        final_epochs: Epochs at ``final_lr`` after the cosine.
        schedule: cosine; or steps, where the learning rate falls to a tenth at the start of each of step_epochs; or
            linear, where it falls in a straight line (what others call poly with power 1); or constant, where it falls
            in the last decay_epochs alone, so that a run can go on from before them for as long as one likes.
        step_epochs: For steps: after how many epochs.
        decay_epochs: For constant: in how many last epochs it falls, in a straight line to final_lr; 0: never.
        freeze_batch_norm: Whether batch norms keep the statistics of the weights that training starts from, as is right
            where batches are small. Detection does so by itself; SG-Former has no batch norms.
        kwargs: More arguments of the optimizer, such as {betas: [0.9, 0.95]}.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    final_lr: float = 1e-6
    final_epochs: float = 0.0
    schedule: Literal["cosine", "steps", "linear", "constant"] = "cosine"
    step_epochs: list[float] = field(default_factory=list)
    decay_epochs: float = 0.0
    freeze_batch_norm: bool = False
    kwargs: dict[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf or not 0 <= self.final_lr <= self.lr:
            raise ValueError(
                f"optim.lr {self.lr} and optim.final_lr {self.final_lr}: lr must be above 0, final_lr 0 to lr"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay {self.layer_decay} is outside (0, 1]")


def create_optimizer(model: nn.Module, options: OptimOptions) -> Optimizer:
    """The optimizer of a model, with groups for weight decay and, where asked for, layer decay.

    Exempt from decay are parameters of one dimension, biases, and what a part of the model names in
    ``no_weight_decay()``. ValueError where the optimizer is unknown, or layer decay is asked of a model without
    ``group_matcher``.
    """
    known = [str(name) for name in list_optimizers()]
    if options.name.lower() not in known:
        raise ValueError(f"unknown optimizer {options.name!r}{nearest(options.name, known)}")
    exempt: set[str] = set()
    for prefix, part in model.named_modules():
        names: Any = getattr(part, "no_weight_decay", None)
        if callable(names):
            exempt |= {f"{prefix}.{name}".lstrip(".") for name in cast(set[str], names())}

    if options.layer_decay is None:
        groups = param_groups_weight_decay(model, options.weight_decay, no_weight_decay_list=exempt)
    elif callable(getattr(model, "group_matcher", None)):
        groups = param_groups_layer_decay(
            model, options.weight_decay, no_weight_decay_list=exempt, layer_decay=options.layer_decay
        )
        # timm's own schedulers read lr_scale; torch's start from each group's lr.
        groups = [{**group, "lr": options.lr * group["lr_scale"]} for group in groups]
    else:
        raise ValueError(
            f"optim.layer_decay: {type(model).__name__} does not say which layers it has (group_matcher); "
            "leave layer_decay at null for this model"
        )
    kwargs: dict[str, Any] = dict(options.kwargs)
    optimizer = create_optimizer_v2(groups, options.name, lr=options.lr, weight_decay=options.weight_decay, **kwargs)
    if "muon" in options.name.lower() and not processor_has_bfloat16():
        _orthogonalize_in_float32(optimizer)
    return optimizer


def _orthogonalize_in_float32(optimizer: Optimizer) -> None:
    """Have timm's Muon orthogonalize in float32 where its weights are on a processor.

    It does so in bfloat16 and takes no argument for that. On a processor without instructions for bfloat16, a step with
    sgformer_t took 15 seconds, and with this half a second.
    """
    name = "zeropower_via_newtonschulz"
    original = getattr(muon, name, None)
    if original is None:
        warnings.warn(
            "this timm has another Muon, which may be slow on this processor: it has no instructions for bfloat16",
            stacklevel=2,
        )
        return

    def before(optimizer: Optimizer, *_: Any) -> None:
        if optimizer.param_groups[0]["params"][0].device.type == "cpu":
            setattr(muon, name, partial(original, dtype=torch.float32))

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda *_: setattr(muon, name, original))


def count_steps(trainer: Any) -> int:
    """Steps of the optimizer in the whole run.

    Lightning's own count sets up the loader that is trained from, before a checkpoint says where to go on in it.
    """
    num_batches: float = len(trainer.datamodule.train_dataloader())
    limit = trainer.limit_train_batches
    if limit is not None:
        num_batches = min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
    return math.ceil(num_batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)


class Schedule(LambdaLR):
    """A learning rate by a factor of each step, which a resumed run follows by its recipe as it is now.

    A checkpoint holds the learning rates and decays that the optimizer had. Once it is loaded, those of the recipe take
    their place, and the schedule goes on from the step where it was.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.factor = factor
        self.decays = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the step."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a step; called when the optimizer has its state back."""
        self.last_epoch = state_dict["last_epoch"]
        groups = self.optimizer.param_groups
        for group, lr, decay in zip(groups, self.base_lrs, self.decays, strict=True):
            group |= {"initial_lr": lr, "lr": lr * self.factor(self.last_epoch), "weight_decay": decay}


def create_schedule(optimizer: Optimizer, options: OptimOptions, *, num_steps: int, num_epochs: int) -> Schedule:
    """The learning rate of each step: a straight rise over the warm-up, then the recipe's way down to ``final_lr``."""
    if options.warmup_epochs + options.final_epochs >= num_epochs and options.final_epochs:
        raise ValueError(
            f"optim.warmup_epochs {options.warmup_epochs} and optim.final_epochs {options.final_epochs} leave nothing "
            f"of trainer.max_epochs {num_epochs}; lower them"
        )
    per_epoch = num_steps / num_epochs
    warmup = round(min(options.warmup_epochs * per_epoch, num_steps))
    end = num_steps - round(options.final_epochs * per_epoch)
    start, floor = options.warmup_lr / options.lr, options.final_lr / options.lr

    def factor(step: int) -> float:
        if step < warmup:
            return start + (1 - start) * step / warmup
        if options.schedule == "steps":
            return 0.1 ** sum(step >= epoch * per_epoch for epoch in options.step_epochs)
        if options.schedule == "constant":
            decay = options.decay_epochs * per_epoch
            return max(min((end - step) / decay, 1.0) if decay else 1.0, floor)
        progress = min((step - warmup) / max(end - warmup, 1), 1.0)
        share = (1 + math.cos(math.pi * progress)) / 2 if options.schedule == "cosine" else 1 - progress
        return floor + (1 - floor) * share

    return Schedule(optimizer, factor)
