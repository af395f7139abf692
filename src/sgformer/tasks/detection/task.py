"""Training and evaluation of a detector."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import options
from ..loading import Batch, nothing_read
from ..task import Task
from .data import DetectionData
from .evaluation import CocoMetric, with_masks
from .heads import HeadOptions
from .model import Detector, Preprocessing
from .options import DataOptions


@dataclass(kw_only=True)
class Recipe(options.Recipe):
    """A detection recipe.

    Attributes:
        heads: What finds objects in its maps.
    """

    RENAMED: ClassVar = {"data.image_size": ("data.shorter_side", "data.max_side")}
    FOLLOWED: ClassVar = (
        *options.Recipe.FOLLOWED,
        *("data.train.*", "data.val.*", "data.invalid"),
        *("heads.num_proposals", "heads.num_sampled", "heads.max_detections"),
    )
    IDLE: ClassVar = {
        **options.Recipe.IDLE,
        **dict.fromkeys(
            ("heads.num_sampled", "heads.box_channels"),
            ("heads.kind is retinanet", lambda recipe: recipe.heads.kind == "retinanet"),
        ),
    }
    task: str = "detection"
    heads: HeadOptions = field(default_factory=HeadOptions)
    data: DataOptions = field(default_factory=DataOptions)


class DetectionTask(Task):
    """Trains a detector; monitored is the AP of masks where there are some, else of boxes."""

    model: Detector

    def __init__(self, model: Detector, recipe: Recipe) -> None:
        super().__init__(model, recipe.optim)
        self.monitor = "val_mask_ap" if model.heads.masks else "val_box_ap"
        self.metric = self._metric()

    def _metric(self) -> CocoMetric:
        return CocoMetric(masks=self.model.heads.masks, max_detections=self.model.heads.max_detections)

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch: the sum of torchvision's losses of proposals, boxes and masks."""
        wait = self.model.heads.kind == "rcnn"  # see `heads.over_processes`
        if nothing_read(self.model, batch.images, wait=wait):
            return self.no_loss()
        return torch.stack(list(self.model(batch.images, batch.targets).values())).sum()

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
                if name in values:  # else there is nothing to find, no epoch is the best, and the last one counts
                    self.log(f"val_{kind}_{name}", values[name], sync_dist=True)
        self.metric = self._metric()


def build(recipe: Recipe) -> tuple[DetectionTask, DetectionData]:
    """Prepare a run: scan the data, then build a model for its classes."""
    recipe.model.check_rgb("detection")
    data = DetectionData(
        recipe.data,
        masks=recipe.heads.masks,
        seed=recipe.seed,
        max_detections=recipe.heads.max_detections,
        num_proposals=recipe.heads.num_proposals,
        num_maps=len(recipe.heads.anchor_sizes) if recipe.heads.kind == "retinanet" else 1,
    )
    model = create_detector(recipe, classes=data.classes, category_ids=data.category_ids)
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    return DetectionTask(model, recipe), data


def create_detector(recipe: Recipe, *, classes: Sequence[str], category_ids: Sequence[int]) -> Detector:
    """The detector of a recipe for these classes, with initial values."""
    return Detector(
        recipe.model.name,
        classes=classes,
        category_ids=category_ids,
        preprocessing=Preprocessing.of(recipe.model.name, recipe.data.sides, multiple=recipe.data.multiple),
        heads=recipe.heads,
        kwargs=recipe.model.arguments,
        pretrained=recipe.model.pretrained,
    )
