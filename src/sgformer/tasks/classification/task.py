"""Training of a classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from .. import options
from ..backbones import kwargs_of, preprocessing_of
from ..balance import LossOptions
from ..bands import check_augment
from ..loading import Batch, nothing_read
from ..task import Task
from .augment import BatchAugment
from .data import ClassificationData
from .model import Classifier
from .options import FOLLOWED, DataOptions
from .probing import ProbeOptions, probe


@dataclass(kw_only=True)
class Recipe(options.Recipe):
    """A classification recipe.

    Attributes:
        probe: A logistic regression in place of training.
        loss: What training minimizes.
    """

    FOLLOWED: ClassVar = (*options.Recipe.FOLLOWED, *FOLLOWED, "data.views", "loss.*")
    IDLE: ClassVar = {
        **options.Recipe.IDLE,
        **dict.fromkeys(
            ("loss", "optim", "data.balanced", "data.augment", "trainer.max_epochs", "trainer.ema_decay"),
            ("probe.penalties are set without probe.train", lambda recipe: recipe.shortcut),
        ),
        **dict.fromkeys(
            ("data.augment.mix_prob", "data.augment.mix_epochs"),
            (
                "data.augment.mixup and cutmix are 0",
                lambda recipe: not recipe.data.augment.mixup and not recipe.data.augment.cutmix,
            ),
        ),
    }
    task: str = "classification"
    data: DataOptions = field(default_factory=DataOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    loss: LossOptions = field(default_factory=LossOptions)

    @property
    def shortcut(self) -> Callable[..., tuple[dict[str, float], str]] | None:
        """Logistic regression in place of training, where the recipe asks for one."""
        return _regress if self.probe.penalties and not self.probe.train else None


class ClassificationTask(Task):
    """Trains a classifier by its recipe's sections ``loss``, ``optim`` and ``data.augment``."""

    model: Classifier
    monitor = "val_top1"

    def __init__(self, model: Classifier, recipe: Recipe, *, weights: Sequence[float] | None = None) -> None:
        super().__init__(model, recipe.optim, weights=weights)
        self.label_smoothing, num_classes = recipe.loss.label_smoothing, len(model.classes)
        self.augment = BatchAugment(recipe.data.augment, num_classes)
        self.val_loss = MeanMetric()
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    @property
    def learned(self) -> nn.Module:
        """The backbone by itself, since layer decay asks it which layers it has."""
        return self.model.backbone

    def loss(self, batch: Batch) -> Tensor:
        """Compute the cross-entropy of a batch, in float32 whatever the precision of the model."""
        if nothing_read(self.model, batch.images):
            return self.no_loss()
        images = self.model.normalize(batch.images)
        images, targets = self.augment(images, batch.targets, self.current_epoch)
        return cross_entropy(
            self.model(images).float(), targets, weight=self.weights, label_smoothing=self.label_smoothing
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Counts what is right."""
        images, targets = batch.images, batch.targets
        if len(images):  # none where no image could be read
            logits = self.model(self.model.normalize(images)).float()
            self.top1(logits, targets)
            self.top5(logits, targets)
            self.val_loss(cross_entropy(logits, targets, reduction="none"))
        self.log_dict({"val_loss": self.val_loss, "val_top1": self.top1})
        if len(self.model.classes) > 5:  # else it is 1 anyway
            self.log("val_top5", self.top5)


def build(recipe: Recipe) -> tuple[ClassificationTask, ClassificationData]:
    """Prepare a run: scan the data, then build a model for its classes."""
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
        raise ValueError(f"{recipe.model.name} takes images of one size only; set --data.eval_image_size null")
    # A head that knows these very classes stays, and without trained weights there is nothing to regress on.
    known = getattr(model.backbone, "pretrained_cfg", {}).get("num_classes") == len(data.classes)
    if recipe.model.weights:
        known = model.start_from(recipe.model.weights)
    if recipe.probe.train and not known and (recipe.model.weights or recipe.model.pretrained):
        data.notes.append(f"the head {_start_head(recipe, data, model)}")
    return ClassificationTask(model, recipe, weights=data.loss_weights(recipe.loss.weights)), data


def _regress(recipe: Recipe, data: ClassificationData, model: Classifier) -> tuple[dict[str, float], str]:
    """Replace the head by a regression; its metrics, in words too."""
    metrics = probe(recipe.probe, data, model)
    return metrics, f"cross-validated accuracy {metrics['cv_top1']:.1%} · val_top1 {metrics['val_top1']:.1%}"


def _start_head(recipe: Recipe, data: ClassificationData, model: Classifier) -> str:
    """Start the head from a regression, and say how good it is; where that cannot be, say why."""
    try:
        return f"starts from a regression, cross-validated accuracy {probe(recipe.probe, data, model)['cv_top1']:.1%}"
    except ValueError as error:
        return f"starts from random values ({error})"
