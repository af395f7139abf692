"""Which of these classes is in the picture? From folders of pictures, with any timm backbone."""

from .data import ClassificationData
from .judge import Report, evaluate, worst
from .model import Classifier, Prediction
from .probe import probe
from .task import ClassificationTask, Recipe, build, watchers

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
    "probe",
    "watchers",
    "worst",
]
