"""How a classifier is trained and judged."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from ...engine.fit import TrainerOptions
from ...engine.optim import OptimOptions, create_optimizer, warmup_cosine
from ..backbones import ModelOptions, kwargs_of, preprocessing_of
from .data import AugmentOptions, ClassificationData, DataOptions
from .model import Classifier


@dataclass(kw_only=True)
class LossOptions:
    """What training minimizes: cross-entropy.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes.
    """

    label_smoothing: float = 0.1


@dataclass(kw_only=True)
class Recipe:
    """A classification recipe.

    Attributes:
        task: Always classification.
        seed: Where all randomness starts.
        model: Which backbone.
        data: Which pictures, how large, how many at once.
        loss: What training minimizes.
        optim: How the weights are moved.
        trainer: How long, how precise, and on what.
    """

    task: str = "classification"
    seed: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
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
    """

    monitor = "val_top1"

    def __init__(
        self, model: Classifier, *, loss: LossOptions, optim: OptimOptions, augment: AugmentOptions
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = loss.label_smoothing
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

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What training minimizes, of a batch."""
        images, targets = batch
        if self.mix and (self.mix_epochs is None or self.current_epoch < self.mix_epochs):
            images, targets = self.mix(images, targets)
        # In float32, whatever the precision of the model.
        return cross_entropy(self.model(images).float(), targets, label_smoothing=self.label_smoothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss = self.loss(batch)
        # Apart, so that processes wait for each other's number once an epoch only.
        self.log("train_loss_step", loss, on_step=True, on_epoch=False)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Counts what is right."""
        images, targets = batch
        logits = self.model(images).float()
        self.top1(logits, targets)
        self.top5(logits, targets)
        self.val_loss(cross_entropy(logits, targets, reduction="none"))
        self.log_dict({"val_loss": self.val_loss, "val_top1": self.top1, "val_top5": self.top5})

    def configure_optimizers(self) -> Any:
        """Warm-up and cosine, per step."""
        # The backbone by itself, since layer decay asks it which layers it has.
        optimizer = create_optimizer(self.model.backbone, self.optim)
        schedule = warmup_cosine(
            optimizer,
            self.optim,
            num_steps=int(self.trainer.estimated_stepping_batches),
            num_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Report:
    """How good a classifier is.

    Attributes:
        top1: Share of pictures whose class is named first.
        top5: Share of pictures whose class is among the first five.
        num_pictures: How many were judged.
        classes: Per class its name, number of pictures, share named right, and what it is else taken for.
    """

    top1: float
    top5: float
    num_pictures: int
    classes: tuple[tuple[str, int, float, str | None], ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {"class": name, "num_pictures": count, "top1": round(share, 6), "most_often_taken_for": other}
            for name, count, share, other in self.classes
        ]
        numbers = {
            "top1": round(self.top1, 6),
            "top5": round(self.top5, 6),
            "num_pictures": self.num_pictures,
        }
        return {**numbers, "classes": rows}

    def to_table(self) -> tuple[Sequence[str], list[Sequence[str]]]:
        """For people: column heads and rows, the last one for all pictures together."""
        rows: list[Sequence[str]] = [
            (name, str(count), f"{share:.1%}", other or "") for name, count, share, other in self.classes
        ]
        rows.append(("all", str(self.num_pictures), f"{self.top1:.1%}", f"top-5 {self.top5:.1%}"))
        return ("class", "pictures", "top-1", "else most often"), rows


def build(recipe: Recipe) -> tuple[ClassificationTask, ClassificationData]:
    """Prepare a run: look through the data, then make a model for its classes.

    Raises:
        ValueError: Something in the recipe or the data does not hold together.
    """
    preprocessing = preprocessing_of(
        recipe.model.name, image_size=recipe.data.eval_size, crop_fraction=recipe.data.crop_fraction
    )
    data = ClassificationData(recipe.data, preprocessing, seed=recipe.seed)
    model = Classifier(
        recipe.model.name,
        classes=data.classes,
        preprocessing=preprocessing,
        kwargs=kwargs_of(recipe.model, image_size=recipe.data.train_size),
        pretrained=recipe.model.pretrained,
    )
    if recipe.data.eval_size != recipe.data.train_size and model.has_fixed_size:
        raise ValueError(
            f"{recipe.model.name} takes pictures of one size only; set --data.eval_image_size null"
        )
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    task = ClassificationTask(model, loss=recipe.loss, optim=recipe.optim, augment=recipe.data.augment)
    return task, data


@torch.inference_mode()
def evaluate(model: Classifier, data: DataOptions, *, progress: Any = iter) -> Report:
    """Judge a classifier on the validation pictures.

    Args:
        model: Put into evaluation mode, and left in it.
        data: Which pictures, how large; mean, deviation and interpolation are the model's own.
        progress: Wraps the batches, to show how far it is.

    Raises:
        DataError: The folders are not as they must be, or have classes that the model does not know.
    """
    preprocessing = replace(
        model.preprocessing,
        image_size=data.eval_size,
        crop_fraction=data.crop_fraction or model.preprocessing.crop_fraction,
    )
    module = ClassificationData(data, preprocessing, classes=model.classes, splits=("val",))
    if model.has_fixed_size and data.eval_size != model.preprocessing.image_size:
        model.backbone.set_input_size(img_size=data.eval_size)  # pyright: ignore
    device = next(model.parameters()).device
    num_classes = len(model.classes)
    top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)).to(device)
    confusion = MulticlassConfusionMatrix(num_classes).to(device)
    model.eval()
    for images, targets in progress(module.val_dataloader()):
        logits = model(images.to(device))
        top5.update(logits, targets.to(device))
        confusion.update(logits, targets.to(device))
    counts = confusion.compute().cpu()  # (true class, named class)
    right = counts.diagonal()
    rows = []
    for i, name in enumerate(model.classes):
        num = int(counts[i].sum())
        if num:
            wrong = counts[i].clone()
            wrong[i] = 0
            other = model.classes[int(wrong.argmax())] if wrong.any() else None
            rows.append((name, num, int(right[i]) / num, other))
    total = int(counts.sum())
    return Report(int(right.sum()) / total, top5.compute().item(), total, tuple(rows))
