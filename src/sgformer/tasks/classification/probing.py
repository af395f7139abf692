"""Linear probing: logistic regression on the features of a frozen backbone."""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import DataError
from ..loading import Samples, Unreadable, collate_readable, spread, suitable_workers
from .data import ClassificationData, Images
from .model import Classifier

# So many training images are enough for a head to start from.
ENOUGH = 4000


@dataclass(kw_only=True)
class ProbeOptions:
    """A logistic regression in place of training: the backbone stays as it is.

    Attributes:
        penalties: Inverse strengths of the penalty to choose from, as scikit-learn's C, by cross-validation on the
            training images; features are standardized before. Empty: no regression, the model is trained.
        folds: Parts of the cross-validation; fewer where a class has fewer images.
        train: Whether the whole model is then trained, from this head on. The regression then takes 4,000 of the
            training images at most. It is left out where the head knows the classes already or nothing is trained;
            where it cannot be, as with shards or a class of one image, the run says so.
    """

    penalties: list[float] = field(default_factory=list)
    folds: int = 5
    train: bool = False

    def __post_init__(self) -> None:
        if self.train and not self.penalties:
            raise ValueError("probe.train needs probe.penalties; set --probe.penalties '[0.01]'")
        if min(self.penalties, default=1.0) <= 0 or self.folds < 2:
            raise ValueError(
                f"probe.penalties {self.penalties} must be above 0, and probe.folds {self.folds} at least 2"
            )


def probe(options: ProbeOptions, data: ClassificationData, model: Classifier) -> dict[str, float]:
    """Replace the head of a classifier by a logistic regression on its features of images, all seen as in validation.

    Gives ``cv_top1``, the accuracy that cross-validation on the training images found; ``num_features``; ``penalty``,
    the one that was chosen; and, where the model is not trained then, ``val_top1``. DataError where a class has one
    image alone, or none can be read.
    """
    if data.options.source == "shards":
        raise DataError("a probe reads its images several times and in order; shards are not for that")
    found, preprocessing = {}, model.preprocessing
    for split, samples in data.samples.items():
        if options.train and split == "val":
            continue
        transform = preprocessing.transform(normalize=False)
        images: Dataset[Any] = Samples(Images(samples.items, preprocessing, transform, preprocessing.shorter_side))
        if options.train:
            images = Subset(images, spread(len(samples.items), ENOUGH))
        found[split] = _features(model, images, data, split)
    weight, bias, score, penalty = regress(
        *found["train"], classes=data.classes, penalties=options.penalties, folds=options.folds
    )
    head = cast(Any, model.backbone).get_classifier()
    if not isinstance(head, nn.Linear) or head.in_features != weight.shape[1]:
        raise ValueError(f"the head of {model.name} is no linear layer on its features; choose another model")
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    metrics = {"cv_top1": score, "num_features": weight.shape[1], "penalty": penalty}
    if "val" in found:
        features, labels = found["val"]
        metrics["val_top1"] = ((features @ weight.T + bias).argmax(-1) == labels).float().mean().item()
    return metrics


def regress(
    features: Tensor, labels: Tensor, *, classes: tuple[str, ...], penalties: list[float], folds: int
) -> tuple[Tensor, Tensor, float, float]:
    """A logistic regression of features (images, c), its penalty chosen by cross-validation, as a linear layer.

    Gives weight (classes, c), bias (classes,), cross-validated accuracy, and the penalty chosen. DataError where a
    class has one image alone.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = labels.bincount(minlength=len(classes))
    if (least := int(counts.min())) < 2:
        name = classes[int(counts.argmin())]
        raise DataError(f"the class {name} has {least} readable training images; a probe needs two of each")
    parts = StratifiedKFold(min(folds, least), shuffle=True, random_state=0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search: Any = GridSearchCV(pipeline, {"logisticregression__C": penalties}, cv=parts, scoring="accuracy")
    search.fit(features.double().numpy(), labels.numpy())
    scaler, regression = (step for _, step in search.best_estimator_.steps)
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    if len(classes) == 2:  # one row, for the second class: a softmax of halves is the same
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    tensors = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
    return *tensors, float(search.best_score_), float(search.best_params_["logisticregression__C"])


def _features(model: Classifier, images: Dataset[Any], data: ClassificationData, split: str) -> tuple[Tensor, Tensor]:
    """Features and labels of all images that can be read; those that cannot are named, and may be too many."""
    workers = suitable_workers() if data.options.workers is None else data.options.workers
    loader = DataLoader(images, batch_size=data.options.batch_size, num_workers=workers, collate_fn=collate_readable)
    found, unreadable, num_images = [], list[Unreadable](), len(cast(Any, images))
    with model.evaluating():
        for x, labels, left_out in loader:
            unreadable += left_out
            if len(x):
                found.append((model.features(model.normalize(x.to(model.mean.device))).float().cpu(), labels))
    for path, reason in unreadable:
        print(f"left out: {path}: {reason}")
    if not found or len(unreadable) > data.options.max_unreadable * num_images:
        path, reason = unreadable[0]
        raise DataError(
            f"{len(unreadable)} of {num_images} {split} images cannot be read, such as {path}: {reason}; mend "
            "them, or allow more: --data.max_unreadable"
        )
    features, labels = zip(*found, strict=True)
    return torch.cat(features), torch.cat(labels)
