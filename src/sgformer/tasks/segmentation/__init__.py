"""What is where in the picture? A class for each pixel, learned from masks, on any timm backbone with maps."""

from .data import SegmentationData
from .model import Segmenter
from .prediction import SemanticMap
from .task import Recipe, Report, SegmentationTask, build, evaluate, watchers
from .worst import worst

load = Segmenter.from_weights

__all__ = [
    "Recipe",
    "Report",
    "SegmentationData",
    "SegmentationTask",
    "Segmenter",
    "SemanticMap",
    "build",
    "evaluate",
    "load",
    "watchers",
    "worst",
]
