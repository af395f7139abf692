"""Training of a model, whatever its task: a step, an optimizer, and what is logged."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..engine.optim import OptimOptions, count_steps, create_optimizer, create_schedule
from .backbones import freeze_batch_norms
from .model import Kept


class Task(LightningModule, ABC):
    """Trains ``model``, which is what is kept of a run. A subclass adds `loss` and the validation.

    Metrics of the validation are logged as ``val_...``, over all processes, others as ``train_...``.
    """

    monitor: str  # the metric, logged at every validation, by which the best epoch is chosen; higher is better
    weights: Tensor | None  # of each class in the loss; None: all the same, or no classes

    def __init__(self, model: Kept, optim: OptimOptions, *, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.model, self.optim = model, optim
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Compute the training loss of a batch; see `no_loss` where no image could be read."""

    @property
    def learned(self) -> nn.Module:
        """The module that the optimizer trains."""
        return self.model

    def train(self, mode: bool = True) -> "Task":
        """Set the training mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.optim.freeze_batch_norm:
            freeze_batch_norms(self.model)
        return self

    def on_train_start(self) -> None:
        """Freezes batch norms, since Lightning leaves modes as they are."""
        self.train()

    def no_loss(self) -> Tensor:
        """The loss where no image could be read: zero, from all weights, since other processes wait for the step."""
        return 0.0 * torch.stack([w.float().sum() for w in self.parameters() if w.requires_grad]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss, num = self.loss(batch), len(batch.images)
        # Apart, so that processes wait for each other's number once an epoch only.
        if num:
            self.log("train_loss_step", loss, on_step=True, on_epoch=False, batch_size=num)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=num, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer and learning-rate schedule, per step."""
        optimizer = create_optimizer(self.learned, self.optim)
        schedule = create_schedule(
            optimizer, self.optim, num_steps=count_steps(self.trainer), num_epochs=self.trainer.max_epochs or 1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
