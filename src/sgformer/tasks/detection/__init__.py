"""Object detection and instance segmentation, with any timm backbone."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Detector as Detector
from .prediction import Detections as Detections

if TYPE_CHECKING:
    from .data import DetectionData as DetectionData
    from .evaluation import Report as Report
    from .evaluation import evaluate as evaluate
    from .task import DetectionTask as DetectionTask
    from .task import Recipe as Recipe
    from .task import build as build

Kept = Detector

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__, {"data": "DetectionData", "evaluation": "Report evaluate", "task": "DetectionTask Recipe build"}
)
