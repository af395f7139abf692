"""Optimizer and learning-rate schedule."""

# pyright: reportPrivateImportUsage=false
# (timm.optim has no __all__, so its public functions look private.)

import math
from dataclasses import dataclass, field
from typing import Any, cast

from timm.optim import (
    create_optimizer_v2,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .recipe import Plain, nearest


@dataclass(kw_only=True)
class OptimOptions:
    """How the weights are moved.

    Attributes:
        name: Any optimizer of timm, such as adamw, lamb or sgd.
        lr: Highest learning rate, for the batch size as it is: nothing is scaled behind your back.
        weight_decay: Decay of weight matrices. Biases, norms and positions are never decayed.
        layer_decay: Factor on the learning rate from a layer to the one below, for fine-tuning; null: none.
        warmup_epochs: Epochs in which the learning rate rises from 0; fractions are fine.
        final_lr: Learning rate at the end of the cosine that follows.
        kwargs: More arguments of the optimizer, such as {betas: [0.9, 0.95]}.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: float = 0.0
    final_lr: float = 1e-6
    kwargs: dict[str, Plain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.final_lr <= self.lr:
            raise ValueError(
                f"optim.lr {self.lr} and optim.final_lr {self.final_lr}: lr must be above 0, final_lr 0 to lr"
            )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay {self.layer_decay} is outside (0, 1]")


def create_optimizer(model: nn.Module, options: OptimOptions) -> Optimizer:
    """The optimizer of a model, with groups for weight decay and, where asked for, layer decay.

    Exempt from decay are parameters of one dimension, biases, and what the model, or a part of it, names in
    ``no_weight_decay()``.

    Raises:
        ValueError: The optimizer is unknown, or layer decay is asked of a model without ``group_matcher``.
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
    return create_optimizer_v2(
        groups, options.name, lr=options.lr, weight_decay=options.weight_decay, **kwargs
    )


def warmup_cosine(
    optimizer: Optimizer, options: OptimOptions, *, num_steps: int, num_epochs: int
) -> LambdaLR:
    """A schedule per step: a straight rise over the warm-up, then half a cosine down to ``final_lr``."""
    warmup = round(num_steps * min(options.warmup_epochs / num_epochs, 1.0))
    floor = options.final_lr / options.lr

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
