"""Distillation: a student learns from a teacher, on images without labels."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity, kl_div, smooth_l1_loss
from torchmetrics import MeanMetric

from ...engine.modes import evaluating
from .. import options
from ..backbones import kwargs_of, preprocessing_of
from ..classification.augment import BatchAugment
from ..classification.model import Classifier
from ..classification.options import FOLLOWED
from ..images import pair
from ..loading import Batch
from ..task import Task
from .data import DataOptions, PretrainData
from .model import Projector, Signals, resized, signals
from .teacher import Teacher, TeacherOptions


@dataclass(kw_only=True)
class LossOptions:
    """Options of the loss: a weighted sum of distances between student and teacher.

    Attributes:
        logits: Weight of the Kullback-Leibler divergence from the teacher's probabilities to the student's.
        temperature: What both's logits are divided by first; below 1 for a teacher that is less sure than it is right.
        pooled: Weight of the distance between pooled features.
        maps: Weight of the distance between the last feature maps, place by place; the teacher's is averaged onto the
            student's grid.
        distance: Of features: cosine is 1 minus the cosine of their angle; smooth_l1 also compares lengths.
    """

    logits: float = 1.0
    temperature: float = 0.7
    pooled: float = 1.0
    maps: float = 0.0
    distance: Literal["cosine", "smooth_l1"] = "cosine"

    def __post_init__(self) -> None:
        weights = self.logits, self.pooled, self.maps
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(f"loss.logits, loss.pooled, loss.maps {weights}: none may be below 0, and one above")
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature {self.temperature} must be above 0")


@dataclass(kw_only=True)
class Recipe(options.Recipe):
    """A pretraining recipe.

    Attributes:
        task: Always pretrain.
        teacher: Which model it learns from.
        data: Which images, how large, how many at once.
        loss: What training minimizes.
    """

    FOLLOWED: ClassVar = (*options.Recipe.FOLLOWED, *FOLLOWED, "data.roots", "loss.*")
    task: str = "pretrain"
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    data: DataOptions = field(default_factory=DataOptions)
    loss: LossOptions = field(default_factory=LossOptions)


class PretrainTask(Task):
    """Trains a student; what is kept of it is a classifier of the teacher's classes."""

    model: Classifier
    monitor = "val_agreement"

    def __init__(self, model: Classifier, teacher: Teacher, recipe: Recipe) -> None:
        super().__init__(model, recipe.optim)
        self.teacher, self.parts, self.train_size = teacher, recipe.loss, recipe.data.train_size
        self.projector = self._projector()
        self.augment = BatchAugment(recipe.data.augment, num_classes=2)  # there are no labels
        self.val_loss, self.val_agreement = MeanMetric(), MeanMetric()

    @property
    def learned(self) -> nn.Module:
        """The student and what makes its features like the teacher's."""
        return nn.ModuleDict({"backbone": self.model.backbone, "projector": self.projector})

    @torch.no_grad()
    def _projector(self) -> Projector:
        """Linear maps between the features that are compared."""
        blank = torch.zeros(2, 3, *self.train_size)
        with evaluating(self.model.backbone):
            ours = signals(self.model.backbone, blank)
        theirs = self.teacher(resized(blank, self.teacher.image_size or self.train_size), self.model.preprocessing)
        if self.parts.maps and (ours.maps.ndim != 4 or theirs.maps.ndim != 4):
            raise ValueError("loss.maps needs models whose last feature is a map; set --loss.maps 0")
        pooled = (ours.pooled.shape[1], theirs.pooled.shape[1]) if self.parts.pooled else None
        maps = (ours.maps.shape[1], theirs.maps.shape[1]) if self.parts.maps else None
        return Projector(pooled, maps)

    def compare(self, images: Tensor, size: tuple[int, int]) -> tuple[Tensor, Signals, Signals]:
        """Each image's loss (B,), and what student and teacher say; ``size`` is that which the student sees."""
        theirs = self.teacher(resized(images, self.teacher.image_size or size), self.model.preprocessing)
        ours = signals(self.model.backbone, resized(images, size))
        ours = Signals(*(tensor.float() for tensor in ours))  # whatever the precision of the model
        loss, temperature = images.new_zeros(len(images)), self.parts.temperature
        if self.parts.logits:
            wanted = (theirs.logits / temperature).log_softmax(-1)
            said = (ours.logits / temperature).log_softmax(-1)
            each = kl_div(said, wanted, log_target=True, reduction="none").sum(-1)
            loss = loss + self.parts.logits * temperature**2 * each
        if self.projector.pooled is not None:
            mine = self.projector.pooled(ours.pooled).float()
            loss = loss + self.parts.pooled * self._distance(mine, theirs.pooled)
        if self.projector.maps is not None:
            mine = self.projector.maps(ours.maps).float()
            wanted = adaptive_avg_pool2d(theirs.maps, mine.shape[-2:])
            loss = loss + self.parts.maps * self._distance(mine, wanted).mean((1, 2))
        return loss, ours, theirs

    def _distance(self, mine: Tensor, wanted: Tensor) -> Tensor:
        if self.parts.distance == "cosine":
            return 1 - cosine_similarity(mine, wanted, dim=1)
        return smooth_l1_loss(mine, wanted, reduction="none").mean(1)

    def loss(self, batch: Batch) -> Tensor:
        """Compute the mean distance from the teacher over a batch."""
        if not len(batch.images):
            return self.no_loss()
        images = self.model.normalize(batch.images)
        images, _ = self.augment(images, torch.zeros_like(batch.targets), self.current_epoch)
        return self.compare(images, self.train_size)[0].mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure how far the student is from the teacher, and how often both name the same class first."""
        if len(batch.images):  # none where no image could be read
            loss, ours, theirs = self.compare(self.model.normalize(batch.images), self.model.preprocessing.image_size)
            self.val_loss(loss)
            self.val_agreement((ours.logits.argmax(-1) == theirs.logits.argmax(-1)).float())
        self.log_dict({"val_loss": self.val_loss, "val_agreement": self.val_agreement})


def build(recipe: Recipe) -> tuple[PretrainTask, PretrainData]:
    """Prepare a run: scan the images, then build a student for the teacher's classes."""
    recipe.model.check_rgb("pretraining")
    preprocessing = preprocessing_of(
        recipe.model.name, image_size=recipe.data.eval_size, crop_fraction=recipe.data.crop_fraction
    )
    teacher_size = None if recipe.teacher.image_size is None else pair(recipe.teacher.image_size)
    data = PretrainData(recipe.data, preprocessing, teacher_size=teacher_size, seed=recipe.seed)
    teacher = Teacher(recipe.teacher, accelerator=recipe.trainer.accelerator)
    model = Classifier(
        recipe.model.name,
        classes=teacher.classes,
        names=teacher.names,
        preprocessing=preprocessing,
        kwargs=kwargs_of(recipe.model, image_size=recipe.data.train_size),
        pretrained=recipe.model.pretrained,
    )
    if recipe.model.weights:
        model.start_from(recipe.model.weights)
    return PretrainTask(model, teacher, recipe), data
