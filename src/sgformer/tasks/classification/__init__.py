"""Image classification, with any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Classifier as Classifier
from .prediction import Prediction as Prediction

if TYPE_CHECKING:
    from .data import ClassificationData as ClassificationData
    from .evaluation import Report as Report
    from .evaluation import evaluate as evaluate
    from .probing import probe as probe
    from .task import ClassificationTask as ClassificationTask
    from .task import Recipe as Recipe
    from .task import build as build

Kept = Classifier

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "data": "ClassificationData",
        "evaluation": "Report evaluate",
        "probing": "probe",
        "task": "ClassificationTask Recipe build",
    },
)
