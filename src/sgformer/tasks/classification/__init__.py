"""Which of these classes is in the picture? From folders of pictures, with any timm backbone."""

from .data import ClassificationData
from .model import Classifier, Prediction
from .task import ClassificationTask, Recipe, Report, build, evaluate

load = Classifier.from_weights

__all__ = [
    "ClassificationData",
    "ClassificationTask",
    "Classifier",
    "Prediction",
    "Recipe",
    "Report",
    "build",
    "evaluate",
    "load",
]
