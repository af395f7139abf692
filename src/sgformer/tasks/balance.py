"""Class imbalance: class weights in the loss, and images of rare classes drawn more often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DataError, listed

ClassWeights = Literal["balanced"] | dict[str, float] | None


@dataclass(kw_only=True)
class LossOptions:
    """Options of the loss: cross-entropy.

    Attributes:
        label_smoothing: Share of the target that is spread over all classes.
        weights: balanced, so that all classes weigh the same whatever their numbers of training images, or pixels; or
            weights by class, such as {cat: 2}, 1 for others; null: none.
    """

    label_smoothing: float = 0.1
    weights: ClassWeights = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"loss.label_smoothing {self.label_smoothing} is outside [0, 1]")


def class_weights(wanted: ClassWeights, classes: Sequence[str], counts: ArrayLike) -> list[float] | None:
    """The weight of each class in the loss; None: all the same.

    ``balanced`` gives a class the weight ``total / (number of classes * count)``, so that all classes weigh the same
    together and the mean over what is learned from is 1; a class without any gets no weight, and counts nowhere. A
    mapping gives weights by name, 1 to others. DataError where a class is unknown, or a weight is below 0.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        number = np.asarray(counts, np.float64)
        there = number > 0
        return np.where(there, number.sum() / (there.sum() * np.maximum(number, 1)), 0.0).tolist()
    if unknown := set(wanted) - set(classes):
        raise DataError(f"loss.weights names {listed(unknown)}; the classes are {listed(classes)}")
    weights = [float(wanted.get(name, 1.0)) for name in classes]
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise DataError("loss.weights must be 0 or more, and one of them above 0")
    return weights


def draw_weights(holds: ArrayLike) -> NDArray[np.float64]:
    """Weigh images so that all classes are drawn equally often, as if a class was drawn first and then an image of it.

    ``holds`` is (images, classes), above 0 where an image holds a class.
    """
    there = np.asarray(holds) > 0
    each = there / np.maximum(there.sum(0), 1)
    # An image without a class is drawn as often as one on average.
    weights = each.sum(1)
    weights[~there.any(1)] = weights.sum() / max(int(there.any(1).sum()), 1)
    return weights


def drawn_evenly(classes: Sequence[str], holds: ArrayLike, weights: Sequence[float]) -> str:
    """A note on how often images of each class come in an epoch, relative to drawing all images once."""
    there, each = np.asarray(holds) > 0, np.asarray(weights)
    often = (there * each[:, None]).sum(0) * len(each) / each.sum() / np.maximum(there.sum(0), 1)
    return describe("drawn in an epoch, times", dict(zip(classes, often.tolist(), strict=True)))


def describe(what: str, values: Mapping[str, float]) -> str:
    """A note on values of classes, such as ``loss weights: cat 0.5, dog 1.5``; of many classes the extreme ones."""
    pairs = sorted(values.items(), key=lambda pair: pair[1])
    told = [f"{name} {value:.3g}" for name, value in values.items()]
    if len(pairs) > 20:
        told = [f"{name} {value:.3g}" for name, value in (*pairs[:3], *pairs[-3:])]
        told.insert(3, "...")
    return f"{what}: {', '.join(told)}"
