"""Image classification, from folders of images, with any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Classifier
from .prediction import Prediction

if TYPE_CHECKING:
    from .data import ClassificationData
    from .evaluation import Report, evaluate
    from .probing import probe
    from .task import ClassificationTask, Recipe, build

Kept = Classifier

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "ClassificationData": "data",
        "Report": "evaluation",
        "evaluate": "evaluation",
        "probe": "probing",
        "ClassificationTask": "task",
        "Recipe": "task",
        "build": "task",
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
]
