"""Training and evaluation of a segmenter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...engine import devices
from .. import balance, options
from ..backbones import preprocessing_of
from ..bands import check_augment
from ..decoders import HeadOptions
from ..loading import Batch, nothing_read
from ..task import Task
from .data import SegmentationData
from .evaluation import Report, confusion_matrix, count
from .masks import IGNORE
from .model import Segmenter
from .options import DataOptions


@dataclass(kw_only=True)
class LossOptions(balance.LossOptions):
    """Options of the loss: cross-entropy over all pixels that are not ignored.

    Attributes:
        auxiliary: Weight of the same for the auxiliary head, where there is one.
    """

    label_smoothing: float = 0.0
    auxiliary: float = 0.4


@dataclass(kw_only=True)
class Recipe(options.Recipe):
    """A segmentation recipe.

    Attributes:
        head: What turns the backbone's feature maps into classes.
        loss: What training minimizes.
    """

    FOLLOWED: ClassVar = (
        *options.Recipe.FOLLOWED,
        *("data.images", "data.masks", "data.lists", "data.faults", "data.inference.*", "head.dropout", "loss.*"),
    )
    IDLE: ClassVar = {
        **options.Recipe.IDLE,
        "loss.auxiliary": ("head.auxiliary is 0", lambda recipe: not recipe.head.auxiliary),
        "data.classes": ("data.mapping names the classes", lambda recipe: recipe.data.mapping),
    }
    task: str = "segmentation"
    head: HeadOptions = field(default_factory=HeadOptions)
    data: DataOptions = field(default_factory=DataOptions)
    loss: LossOptions = field(default_factory=LossOptions)


class SegmentationTask(Task):
    """Trains a segmenter by its recipe's sections ``loss`` and ``optim``."""

    model: Segmenter
    monitor = "val_miou"

    def __init__(self, model: Segmenter, recipe: Recipe, *, weights: Sequence[float] | None = None) -> None:
        super().__init__(model, recipe.optim, weights=weights)
        self.auxiliary, self.label_smoothing = recipe.loss.auxiliary, recipe.loss.label_smoothing
        self.confusion = confusion_matrix(len(model.classes))

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch; 0 where every pixel is ignored.

        Each process divides by the mean number of pixels, or sum of their weights, so that the mean of the losses is
        that over all pixels.
        """
        images, masks = batch.images, batch.targets.long()
        nothing = nothing_read(self.model, images)
        if len(images) == 1:  # the others could not be read; the head normalizes over two or more
            images, masks = images.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1)
        judged = masks[masks != IGNORE]
        total = torch.ones_like(judged).sum() if self.weights is None else self.weights[judged].sum()
        total = devices.mean_over_processes(total.float()).clamp(min=1e-6)
        if nothing:
            return self.no_loss()
        logits = self.model(self.model.normalize(images), auxiliary=True)
        losses = [
            # In float32, whatever the precision of the model.
            cross_entropy(
                each.float(),
                masks,
                weight=self.weights,
                ignore_index=IGNORE,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
            / total
            for each in logits
        ]
        return losses[0] + self.auxiliary * sum(losses[1:])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts which class each pixel has and which it was given."""
        count(self.model, batch, self.confusion)

    def on_validation_epoch_end(self) -> None:
        """Logs what the counts of all processes say."""
        report = Report.of(self.confusion.compute(), self.model.classes)
        self.confusion.reset()
        # The same in all processes, since the counts were summed.
        self.log_dict({"val_miou": report.miou, "val_mean_accuracy": report.mean_accuracy})
        self.log("val_pixel_accuracy", report.pixel_accuracy)


def build(recipe: Recipe) -> tuple[SegmentationTask, SegmentationData]:
    """Prepare a run: scan the data, then build a model for its classes."""
    check_augment(recipe.model.in_chans, {"data.augment.photometric": (recipe.data.augment.photometric, 0)})
    preprocessing = preprocessing_of(
        recipe.model.name, image_size=recipe.data.train_size, crop_fraction=1.0, in_chans=recipe.model.in_chans
    )
    data = SegmentationData(recipe.data, preprocessing, seed=recipe.seed)
    preprocessing = data.measure()
    trainer = recipe.trainer
    num = 1 if trainer.sync_batch_norm else devices.num_processes(trainer.devices, trainer.num_nodes)
    if min(recipe.data.batch_size, len(data.images("train"))) < 2 * num:
        raise ValueError(
            "the head normalizes over a batch, which must have two images or more in each process: raise "
            "--data.batch_size, add training images, or set --trainer.sync_batch_norm true"
        )
    model = Segmenter(
        recipe.model.name,
        classes=data.classes,
        preprocessing=preprocessing,
        kwargs=recipe.model.arguments,
        head=recipe.head,
        inference=recipe.data.inference,
        palette=data.palette,
        pretrained=recipe.model.pretrained,
    )
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    return SegmentationTask(model, recipe, weights=data.loss_weights(recipe.loss.weights)), data
