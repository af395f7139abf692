"""How a detector is trained and judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from ...engine.fit import TrainerOptions
from ...engine.optim import OptimOptions, count_steps, create_optimizer, create_schedule
from ..backbones import ModelOptions
from .data import DataOptions, DetectionData
from .heads import HeadOptions
from .model import Detector, Preprocessing
from .report import CocoMetric, Report, make_report

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Any]]]


@dataclass(kw_only=True)
class Recipe:
    """A detection recipe.

    Attributes:
        task: Always detection.
        seed: Where all randomness starts.
        model: Which backbone.
        heads: What finds objects in its maps.
        data: Which pictures, how large, how many at once.
        optim: How the weights are moved.
        trainer: How long, how precise, and on what.
    """

    task: str = "detection"
    seed: int = 0
    model: ModelOptions = field(default_factory=ModelOptions)
    heads: HeadOptions = field(default_factory=HeadOptions)
    data: DataOptions = field(default_factory=DataOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)


class DetectionTask(LightningModule):
    """Trains a detector; what is worth keeping of it is ``model``.

    Args:
        model: What is trained.
        optim: The recipe's section ``optim``.

    Attributes:
        monitor: What decides which epoch is best: the AP of masks where there are some, else of boxes.
    """

    def __init__(self, model: Detector, *, optim: OptimOptions) -> None:
        super().__init__()
        self.model, self.optim = model, optim
        self.monitor = "val_mask_ap" if model.heads.masks else "val_box_ap"
        self.metric = CocoMetric(masks=model.heads.masks)

    def loss(self, batch: Batch) -> Tensor:
        """What training minimizes, of a batch: the sum of torchvision's losses of proposals, boxes and masks."""
        images, targets = batch
        return torch.stack(list(self.model(images, targets).values())).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss = self.loss(batch)
        # Apart, so that processes wait for each other's number once an epoch only.
        self.log("train_loss_step", loss, on_step=True, on_epoch=False, batch_size=len(batch[0]))
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forgets the last epoch's pictures."""
        self.metric = CocoMetric(masks=self.model.heads.masks)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects what is found."""
        images, targets = batch
        self.metric.update(with_masks(self.model(images), images), targets)

    def on_validation_epoch_end(self) -> None:
        """Compares, over all processes."""
        for kind, values in self.metric.compute().numbers.items():
            for name in ("ap", "ap50"):
                # Nothing to find is not the same as nothing found, but a run must be able to go on.
                self.log(f"val_{kind}_{name}", values.get(name, 0.0), sync_dist=True)
        self.metric = CocoMetric(masks=self.model.heads.masks)

    def configure_optimizers(self) -> Any:
        """Warm-up and the recipe's schedule, per step."""
        optimizer = create_optimizer(self.model, self.optim)
        schedule = create_schedule(
            optimizer,
            self.optim,
            num_steps=count_steps(self.trainer),
            num_epochs=self.trainer.max_epochs or 1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def with_masks(found: Sequence[Mapping[str, Tensor]], images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """What `Detector` finds, with masks of the whole pictures: bool (n, height, width)."""
    results = []
    for one, image in zip(found, images, strict=True):
        result = dict(one)
        if "masks" in one:
            size = (int(image.shape[1]), int(image.shape[2]))
            # On the CPU, where a hundred masks of a large picture do not matter.
            masks = paste_masks_in_image(one["masks"].float().cpu(), one["boxes"].float().cpu(), size)
            result["masks"] = masks[:, 0] >= 0.5
        result["boxes"], result["scores"] = one["boxes"].float(), one["scores"].float()
        results.append(result)
    return results


def build(recipe: Recipe) -> tuple[DetectionTask, DetectionData]:
    """Prepare a run: look through the data, then make a model for its classes.

    Raises:
        ValueError: Something in the recipe or the data does not hold together.
    """
    data = DetectionData(recipe.data, masks=recipe.heads.masks, seed=recipe.seed)
    model = create_detector(recipe, classes=data.classes, category_ids=data.category_ids)
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    return DetectionTask(model, optim=recipe.optim), data


def create_detector(recipe: Recipe, *, classes: Sequence[str], category_ids: Sequence[int]) -> Detector:
    """The detector of a recipe for these classes, with initial values."""
    kwargs: dict[str, Any] = dict(recipe.model.kwargs)
    if recipe.model.drop_path_rate:
        kwargs.setdefault("drop_path_rate", recipe.model.drop_path_rate)
    return Detector(
        recipe.model.name,
        classes=classes,
        category_ids=category_ids,
        preprocessing=Preprocessing.of(
            recipe.model.name, recipe.data.image_size, multiple=recipe.data.multiple
        ),
        heads=recipe.heads,
        kwargs=kwargs,
        pretrained=recipe.model.pretrained,
    )


@torch.inference_mode()
def evaluate(model: Detector, data: DataOptions, *, progress: Any = iter) -> Report:
    """Judge a detector on the validation pictures.

    Args:
        model: Put into evaluation mode, and left in it.
        data: Which pictures, how large; mean and deviation are the model's own.
        progress: Wraps the batches, to show how far it is.

    Raises:
        DataError: The annotations are not as they must be, or have other classes than the model.
    """
    module = DetectionData(data, masks=model.heads.masks, classes=model.classes, splits=("val",))
    metric = CocoMetric(masks=model.heads.masks)
    device = next(model.parameters()).device
    model.eval()
    before = model.preprocessing
    model.preprocessing = replace(before, image_size=data.image_size)
    try:
        for images, targets in progress(module.val_dataloader()):
            metric.update(with_masks(model([image.to(device) for image in images]), images), targets)
    finally:
        model.preprocessing = before
    return make_report(metric, model.classes)
