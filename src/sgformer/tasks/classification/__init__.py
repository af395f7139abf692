"""Image classification, from folders of images, with any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Classifier, Prediction

if TYPE_CHECKING:
    from .data import ClassificationData
    from .judge import Report, evaluate, worst
    from .probing import probe
    from .task import ClassificationTask, Recipe, build, watchers

Kept = Classifier

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "ClassificationData": "data",
        "Report": "judge",
        "evaluate": "judge",
        "worst": "judge",
        "probe": "probing",
        "ClassificationTask": "task",
        "Recipe": "task",
        "build": "task",
        "watchers": "task",
    },
)

__all__ = [
    "ClassificationData",
    "ClassificationTask",
    "Classifier",
    "Kept",
    "Prediction",
    "Recipe",
    "Report",
    "build",
    "evaluate",
    "probe",
    "watchers",
    "worst",
]
