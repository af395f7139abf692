"""Training and evaluation of a segmenter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassConfusionMatrix

from ...engine import devices
from ...engine.callbacks import CountUnreadable
from ...engine.fit import TrainerOptions
from ...engine.optim import OptimOptions, count_steps, create_optimizer, create_schedule
from ..backbones import ModelOptions, preprocessing_of
from ..balance import ClassWeights, class_weights, describe
from ..bands import check_augment
from ..kept import BaseReport
from ..loading import Batch, DataError, no_loss
from .data import Judged, SegmentationData
from .masks import IGNORE
from .model import HeadOptions, Segmenter
from .options import DataOptions


@dataclass(kw_only=True)
class LossOptions:
    """Options of the loss: cross-entropy over all pixels that are not ignored.

    Attributes:
        auxiliary: Weight of the same for the auxiliary head, where there is one.
        label_smoothing: Share of the target that is spread over all classes.
        weights: balanced, so that all classes weigh the same whatever their numbers of training pixels; or weights by
            class, such as {pole: 2}, 1 for others; null: none.
    """

    auxiliary: float = 0.4
    label_smoothing: float = 0.0
    weights: ClassWeights = None


@dataclass(kw_only=True)
class Recipe:
    """A segmentation recipe.

    Attributes:
        task: Always segmentation.
        seed: Where all randomness starts.
        model: Which backbone.
        head: What turns its feature maps into classes.
        data: Which images, how large, how many at once.
        loss: What training minimizes.
        optim: How the weights are moved.
        trainer: How long, how precise, and on what.
    """

    task: str = "segmentation"
    seed: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    data: DataOptions = field(default_factory=DataOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)


class SegmentationTask(LightningModule):
    """Trains a segmenter; what is worth keeping of it is ``model``.

    Args:
        model: What is trained.
        loss: The recipe's section ``loss``.
        optim: The recipe's section ``optim``.
        weights: Of each class in the loss; None: all the same.
    """

    monitor = "val_miou"
    weights: Tensor | None

    def __init__(
        self,
        model: Segmenter,
        *,
        loss: LossOptions,
        optim: OptimOptions,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self.model, self.optim = model, optim
        self.auxiliary, self.label_smoothing = loss.auxiliary, loss.label_smoothing
        self.confusion = confusion_matrix(len(model.classes))

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch; 0 where every pixel is ignored.

        Each process divides by the mean number of pixels, or sum of their weights, so that the mean of the losses is
        that over all pixels.
        """
        images, masks = batch.images, batch.targets
        if len(images) == 1:  # the others could not be read; the head normalizes over two or more
            images, masks = images.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1)
        judged = masks[masks != IGNORE]
        total = torch.ones_like(judged).sum() if self.weights is None else self.weights[judged].sum()
        total = devices.mean_over_processes(total.float()).clamp(min=1e-6)
        if not len(images):
            return no_loss(self.model)
        logits = self.model(images, auxiliary=True)
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

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss = self.loss(batch)
        # Apart, so that processes wait for each other's number once an epoch only.
        if len(batch.images):
            self.log("train_loss_step", loss, on_step=True, on_epoch=False)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def validation_step(self, batch: Judged, batch_idx: int) -> None:
        """Counts which class each pixel has and which it was given."""
        count(self.model, batch, self.confusion)

    def on_validation_epoch_end(self) -> None:
        """Logs what the counts of all processes say."""
        report = Report.of(self.confusion.compute(), self.model.classes)
        self.confusion.reset()
        # The same in all processes, since the counts were summed.
        self.log_dict(
            {
                "val_miou": report.miou,
                "val_mean_accuracy": report.mean_accuracy,
                "val_pixel_accuracy": report.pixel_accuracy,
            }
        )

    def configure_optimizers(self) -> Any:
        """Warm-up, then down, per step."""
        optimizer = create_optimizer(self.model, self.optim)
        schedule = create_schedule(
            optimizer,
            self.optim,
            num_steps=count_steps(self.trainer),
            num_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class ClassReport:
    """Quality of a segmenter at one class.

    Attributes:
        name: The class.
        share: Which share of all judged pixels it has.
        iou: Pixels rightly given this class, of those that have it or were given it; None where there are none.
        accuracy: Share of its pixels that were given it; None where it has none.
        taken_for: The class that most of its other pixels were given.
    """

    name: str
    share: float
    iou: float | None
    accuracy: float | None
    taken_for: str | None


@dataclass(frozen=True)
class Report(BaseReport):
    """Report on a segmenter's quality.

    Attributes:
        miou: Mean IoU over the classes that are there or were given; a class that is not there but was given counts 0.
        mean_accuracy: Mean accuracy over the classes that are there.
        pixel_accuracy: Share of all judged pixels that were given their class.
        num_images: How many images were judged.
        classes: Each class.
        counts: Pixels by true class (rows) and given class (columns).
        notes: What was left out or is unusual, a sentence each.
    """

    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    num_images: int
    classes: tuple[ClassReport, ...]
    counts: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, counts: Tensor, names: Sequence[str], *, num_images: int = 0, notes: Sequence[str] = ()
    ) -> "Report":
        """Build the report from a confusion matrix (classes, classes) of pixels, true classes in rows."""
        counts = counts.cpu()
        total = max(int(counts.sum()), 1)
        rows = []
        for i, name in enumerate(names):
            there, given, right = int(counts[i].sum()), int(counts[:, i].sum()), int(counts[i, i])
            union = there + given - right
            wrong = counts[i].clone()
            wrong[i] = 0
            rows.append(
                ClassReport(
                    name=name,
                    share=there / total,
                    iou=right / union if union else None,
                    accuracy=right / there if there else None,
                    taken_for=names[int(wrong.argmax())] if wrong.any() else None,
                )
            )
        return cls(
            miou=_mean([row.iou for row in rows]),
            mean_accuracy=_mean([row.accuracy for row in rows]),
            pixel_accuracy=int(counts.diagonal().sum()) / total,
            num_images=num_images,
            classes=tuple(rows),
            counts=tuple(tuple(row) for row in counts.tolist()),
            notes=tuple(notes),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {
                "class": row.name,
                "share": round(row.share, 6),
                "iou": None if row.iou is None else round(row.iou, 6),
                "accuracy": None if row.accuracy is None else round(row.accuracy, 6),
                "most_often_taken_for": row.taken_for,
            }
            for row in self.classes
        ]
        numbers = {
            "miou": round(self.miou, 6),
            "mean_accuracy": round(self.mean_accuracy, 6),
            "pixel_accuracy": round(self.pixel_accuracy, 6),
            "num_images": self.num_images,
        }
        confusion = [list(row) for row in self.counts]
        return {**numbers, "classes": rows, "confusion": confusion, "notes": list(self.notes)}

    def to_lines(self) -> list[str]:
        """For people, below the table: what was left out or is unusual."""
        return list(self.notes)

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """For people: column heads and rows, the last one for all classes together."""
        rows: list[Sequence[str]] = [
            (row.name, f"{row.share:.1%}", _percent(row.iou), _percent(row.accuracy), row.taken_for or "")
            for row in self.classes
        ]
        last = f"{self.pixel_accuracy:.1%} of pixels right, {self.num_images} images"
        rows.append(("mean", "", f"{self.miou:.1%}", f"{self.mean_accuracy:.1%}", last))
        return ("class", "share", "IoU", "accuracy", "else most often"), rows


def confusion_matrix(num_classes: int) -> MulticlassConfusionMatrix:
    """Counts of pixels by true and given class, summed over processes; ignored pixels are left out."""
    # Masks were checked when they were read; torchmetrics' own check would sort every image's pixels.
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False)


def count(model: Segmenter, batch: Judged, confusion: MulticlassConfusionMatrix) -> None:
    """Add the pixels of images to a confusion matrix, one image at a time, at the images' own sizes."""
    for image, mask in zip(batch.images, batch.masks, strict=True):
        given = torch.from_numpy(model.indices(image)).to(confusion.device)
        confusion.update(given.flatten().long(), mask.to(confusion.device).flatten().long())


def build(recipe: Recipe) -> tuple[SegmentationTask, SegmentationData]:
    """Prepare a run: look through the data, then make a model for its classes.

    Raises:
        ValueError: Something in the recipe or the data does not hold together.
    """
    check_augment(recipe.model.in_chans, {"data.augment.photometric": (recipe.data.augment.photometric, 0)})
    preprocessing = preprocessing_of(
        recipe.model.name,
        image_size=recipe.data.train_size,
        crop_fraction=1.0,
        in_chans=recipe.model.in_chans,
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
    pixels = data.train_counts().sum(0) if recipe.loss.weights == "balanced" else np.zeros(len(data.classes))
    weights = class_weights(recipe.loss.weights, data.classes, pixels)
    if weights:
        data.notes.append(describe("loss weights", dict(zip(data.classes, weights, strict=True))))
    return SegmentationTask(model, loss=recipe.loss, optim=recipe.optim, weights=weights), data


def watchers(recipe: Recipe, data: SegmentationData, folder: Path) -> list[Callback]:
    """Callbacks for a run: the count of images that cannot be read."""
    return [
        CountUnreadable(folder, num_images=data.num_images, max_share=recipe.data.max_unreadable),
    ]


@torch.inference_mode()
def evaluate(model: Segmenter, data: DataOptions, *, progress: Any = iter) -> Report:
    """Judge a segmenter on the validation images.

    Args:
        model: Put into evaluation mode, and left in it; ``data.inference`` becomes its own.
        data: Which images, and how they go through the model.
        progress: Wraps the batches, to show how far it is.

    Raises:
        DataError: Images and masks are not as they must be, or have classes that the model does not know.
    """
    module = SegmentationData(data, model.preprocessing, classes=model.classes, splits=("val",))
    model.inference = data.inference
    confusion = confusion_matrix(len(model.classes)).to(next(model.parameters()).device)
    model.eval()
    num_images, notes = 0, [*module.notes]
    for batch in progress(module.val_dataloader()):
        notes += [f"left out: {path}: {reason}" for path, reason in batch.unreadable]
        count(model, batch, confusion)
        num_images += len(batch.images)
    if not num_images:
        raise DataError(f"none of {len(notes)} images can be read: {notes[-1]}")
    return Report.of(confusion.compute(), model.classes, num_images=num_images, notes=notes)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
