"""Training of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from ...engine.callbacks import CountUnreadable
from ...engine.fit import TrainerOptions
from ...engine.optim import OptimOptions, count_steps, create_optimizer, create_schedule
from ..backbones import ModelOptions, kwargs_of, preprocessing_of
from ..balance import ClassWeights, class_weights, describe
from ..bands import check_augment
from ..loading import Batch, no_loss
from .data import ClassificationData
from .model import Classifier
from .options import AugmentOptions, DataOptions
from .probing import ProbeOptions


@dataclass(kw_only=True)
class LossOptions:
    """Options of the loss: cross-entropy.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes.
        weights: balanced, so that all classes weigh the same whatever their numbers of training images; or weights by
            class, such as {cat: 2}, 1 for others; null: none.
    """

    label_smoothing: float = 0.1
    weights: ClassWeights = None


@dataclass(kw_only=True)
class Recipe:
    """A classification recipe.

    Attributes:
        task: Always classification.
        seed: Where all randomness starts.
        model: Which backbone.
        data: Which images, how large, how many at once.
        probe: A logistic regression in place of training.
        loss: What training minimizes.
        optim: How the weights are moved.
        trainer: How long, how precise, and on what.
    """

    task: str = "classification"
    seed: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)


class ClassificationTask(LightningModule):
    """Trains a classifier; what is worth keeping of it is ``model``.

    Args:
        model: What is trained.
        loss: The recipe's section ``loss``.
        optim: The recipe's section ``optim``.
        augment: For mixup and cutmix, which need whole batches.
        weights: Of each class in the loss; None: all the same.
    """

    weights: Tensor | None

    monitor = "val_top1"

    def __init__(
        self,
        model: Classifier,
        *,
        loss: LossOptions,
        optim: OptimOptions,
        augment: AugmentOptions,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = loss.label_smoothing
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.optim = optim
        num_classes = len(model.classes)
        self.mix, self.mix_epochs = None, augment.mix_epochs
        if augment.mixes:
            self.mix = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=augment.mix_prob,
                label_smoothing=0.0,  # the loss smooths, mixed or not
                num_classes=num_classes,
            )
        self.val_loss = MeanMetric()
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch."""
        images, targets = batch.images, batch.targets
        if not len(images):
            return no_loss(self.model)
        if self.mix and (self.mix_epochs is None or self.current_epoch < self.mix_epochs):
            even = (
                len(images) // 2 * 2
            )  # images are mixed in pairs; one may be missing where a file is damaged
            images, targets = self.mix(images[:even], targets[:even]) if even else (images, targets)
        # In float32, whatever the precision of the model.
        return cross_entropy(
            self.model(images).float(), targets, weight=self.weights, label_smoothing=self.label_smoothing
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss = self.loss(batch)
        # Apart, so that processes wait for each other's number once an epoch only.
        if len(batch.images):
            self.log("train_loss_step", loss, on_step=True, on_epoch=False)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts what is right."""
        images, targets = batch.images, batch.targets
        if len(images):  # none where no image could be read
            logits = self.model(images).float()
            self.top1(logits, targets)
            self.top5(logits, targets)
            self.val_loss(cross_entropy(logits, targets, reduction="none"))
        self.log_dict({"val_loss": self.val_loss, "val_top1": self.top1})
        if len(self.model.classes) > 5:  # else it is 1 anyway
            self.log("val_top5", self.top5)

    def configure_optimizers(self) -> Any:
        """Warm-up and cosine, per step."""
        # The backbone by itself, since layer decay asks it which layers it has.
        optimizer = create_optimizer(self.model.backbone, self.optim)
        schedule = create_schedule(
            optimizer,
            self.optim,
            num_steps=count_steps(self.trainer),
            num_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build(recipe: Recipe) -> tuple[ClassificationTask, ClassificationData]:
    """Prepare a run: look through the data, then make a model for its classes.

    Raises:
        ValueError: Something in the recipe or the data does not hold together.
    """
    augment = recipe.data.augment
    check_augment(
        recipe.model.in_chans,
        {
            "data.augment.color_jitter": (augment.color_jitter, 0),
            "data.augment.rand_augment": (augment.rand_augment, "null"),
        },
    )
    preprocessing = preprocessing_of(
        recipe.model.name,
        image_size=recipe.data.eval_size,
        crop_fraction=recipe.data.crop_fraction,
        in_chans=recipe.model.in_chans,
    )
    data = ClassificationData(recipe.data, preprocessing, seed=recipe.seed)
    preprocessing = data.measure()
    model = Classifier(
        recipe.model.name,
        classes=data.classes,
        names=data.names,
        preprocessing=preprocessing,
        kwargs=kwargs_of(recipe.model, image_size=recipe.data.train_size),
        pretrained=recipe.model.pretrained,
    )
    if recipe.data.eval_size != recipe.data.train_size and model.has_fixed_size:
        raise ValueError(
            f"{recipe.model.name} takes images of one size only; set --data.eval_image_size null"
        )
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    counts = np.zeros(len(data.classes))
    if recipe.loss.weights == "balanced":
        counts = np.bincount(data.train_labels(), minlength=len(data.classes))
    weights = class_weights(recipe.loss.weights, data.classes, counts)
    if weights:
        data.notes.append(describe("loss weights", dict(zip(data.classes, weights, strict=True))))
    task = ClassificationTask(model, loss=recipe.loss, optim=recipe.optim, augment=augment, weights=weights)
    return task, data


def watchers(recipe: Recipe, data: ClassificationData, folder: Path) -> list[Callback]:
    """Callbacks for a run: the count of images that cannot be read."""
    return [
        CountUnreadable(folder, num_images=data.num_images, max_share=recipe.data.max_unreadable),
    ]
