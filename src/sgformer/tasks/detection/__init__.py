"""Where are objects of these classes in the picture, and which pixels are theirs? With any timm backbone."""

from .data import DetectionData
from .detections import Detections
from .model import Detector
from .report import Report
from .task import DetectionTask, Recipe, build, evaluate, watchers
from .worst import worst

load = Detector.from_weights

__all__ = [
    "DetectionData",
    "DetectionTask",
    "Detections",
    "Detector",
    "Recipe",
    "Report",
    "build",
    "evaluate",
    "load",
    "watchers",
    "worst",
]
