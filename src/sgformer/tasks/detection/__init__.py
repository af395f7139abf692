"""Where are objects of these classes in the image, and which pixels are theirs? With any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Detector
from .prediction import Detections

if TYPE_CHECKING:
    from .data import DetectionData
    from .evaluation import Report, evaluate
    from .task import DetectionTask, Recipe, build

Kept = Detector

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "DetectionData": "data",
        "Report": "evaluation",
        "evaluate": "evaluation",
        "DetectionTask": "task",
        "Recipe": "task",
        "build": "task",
    },
)

__all__ = [
    "DetectionData",
    "DetectionTask",
    "Detections",
    "Detector",
    "Kept",
    "Recipe",
    "Report",
    "build",
    "evaluate",
]
