"""Training and evaluation of a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from ...engine.callbacks import CountUnreadable
from ...engine.fit import TrainerOptions
from ...engine.optim import OptimOptions, count_steps, create_optimizer, create_schedule
from ..backbones import ModelOptions
from ..loading import DataError
from .data import Batch, DataOptions, DetectionData
from .heads import HeadOptions
from .masks import encode_found
from .model import Detector, Preprocessing
from .report import CocoMetric, Report, make_report


@dataclass(kw_only=True)
class Recipe:
    """A detection recipe.

    Attributes:
        task: Always detection.
        seed: Where all randomness starts.
        model: Which backbone.
        heads: What finds objects in its maps.
        data: Which images, how large, how many at once.
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
        self.metric = self._metric()

    def _metric(self) -> CocoMetric:
        return CocoMetric(masks=self.model.heads.masks, max_detections=self.model.heads.max_detections)

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch: the sum of torchvision's losses of proposals, boxes and masks."""
        images, targets = batch[:2]
        if not images:  # none could be read; other processes wait for the step
            return (
                0.0 * torch.stack([w.float().sum() for w in self.model.parameters() if w.requires_grad]).sum()
            )
        return torch.stack(list(self.model(images, targets).values())).sum()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        loss = self.loss(batch)
        # Apart, so that processes wait for each other's number once an epoch only.
        if batch.images:
            self.log("train_loss_step", loss, on_step=True, on_epoch=False, batch_size=len(batch.images))
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]), sync_dist=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forgets the last epoch's images."""
        self.metric = self._metric()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects what is found."""
        self.metric.update(with_masks(self.model(batch.images), batch.images), batch.targets)

    def on_validation_epoch_end(self) -> None:
        """Compares, over all processes."""
        for kind, values in self.metric.compute().numbers.items():
            for name in ("ap", "ap50"):
                if (
                    name in values
                ):  # else there is nothing to find, no epoch is the best, and the last one counts
                    self.log(f"val_{kind}_{name}", values[name], sync_dist=True)
        self.metric = self._metric()

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


def with_masks(found: Sequence[Mapping[str, Any]], images: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Detect objects, with the masks of whole images run-length encoded: ``rles``."""
    results = []
    for one, image in zip(found, images, strict=True):
        result = {
            name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in one.items()
        }
        if "masks" in one:
            shapes, boxes = (result[name].detach().cpu().numpy() for name in ("masks", "boxes"))
            result["rles"] = encode_found(shapes[:, 0], boxes, (int(image.shape[1]), int(image.shape[2])))
        results.append(result)
    return results


def build(recipe: Recipe) -> tuple[DetectionTask, DetectionData]:
    """Prepare a run: look through the data, then make a model for its classes.

    Raises:
        ValueError: Something in the recipe or the data does not hold together.
    """
    recipe.model.check_rgb("detection")
    data = DetectionData(
        recipe.data,
        masks=recipe.heads.masks,
        seed=recipe.seed,
        max_detections=recipe.heads.max_detections,
    )
    model = create_detector(recipe, classes=data.classes, category_ids=data.category_ids)
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    return DetectionTask(model, optim=recipe.optim), data


def watchers(recipe: Recipe, data: DetectionData, folder: Path) -> list[Callback]:
    """Callbacks for a run: the count of images that cannot be read."""
    return [
        CountUnreadable(folder, num_images=data.num_images, max_share=recipe.data.max_unreadable),
    ]


def create_detector(recipe: Recipe, *, classes: Sequence[str], category_ids: Sequence[int]) -> Detector:
    """The detector of a recipe for these classes, with initial values."""
    return Detector(
        recipe.model.name,
        classes=classes,
        category_ids=category_ids,
        preprocessing=Preprocessing.of(
            recipe.model.name, recipe.data.image_size, multiple=recipe.data.multiple
        ),
        heads=recipe.heads,
        kwargs=recipe.model.arguments,
        pretrained=recipe.model.pretrained,
    )


@torch.inference_mode()
def evaluate(model: Detector, data: DataOptions, *, progress: Any = iter) -> Report:
    """Judge a detector on the validation images.

    Args:
        model: Put into evaluation mode, and left in it.
        data: Which images, how large; mean and deviation are the model's own.
        progress: Wraps the batches, to show how far it is.

    Raises:
        DataError: The annotations are not as they must be, or have other classes than the model.
    """
    limit = model.heads.max_detections
    module = DetectionData(
        data, masks=model.heads.masks, classes=model.classes, splits=("val",), max_detections=limit
    )
    if data.source != "digit_scenes" and (why := module.found["val"].why_nothing()):
        raise DataError(f"{module.found['val'].path}: nothing can be evaluated: {why}")
    metric = CocoMetric(masks=model.heads.masks, max_detections=limit)
    notes, image_ids = module.notes(), []
    device = next(model.parameters()).device
    model.eval()
    before = model.preprocessing
    model.preprocessing = replace(before, image_size=data.image_size)
    try:
        for images, targets, unreadable in progress(module.val_dataloader()):
            notes += [f"left out: {path}: {reason}" for path, reason in unreadable]
            image_ids += [target["image_id"] for target in targets]
            metric.update(with_masks(model([image.to(device) for image in images]), images), targets)
    finally:
        model.preprocessing = before
    results = metric.results(image_ids, module.category_ids)
    return replace(make_report(metric, model.classes), notes=tuple(notes), results=results)
