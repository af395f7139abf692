"""Where are objects of these classes in the image, and which pixels are theirs? With any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .detections import Detections
from .model import Detector

if TYPE_CHECKING:
    from .data import DetectionData
    from .mistakes import worst
    from .report import Report
    from .task import DetectionTask, Recipe, build, evaluate, watchers

Kept = Detector

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "DetectionData": "data",
        "Report": "report",
        "DetectionTask": "task",
        "Recipe": "task",
        "build": "task",
        "evaluate": "task",
        "watchers": "task",
        "worst": "mistakes",
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
    "watchers",
    "worst",
]
