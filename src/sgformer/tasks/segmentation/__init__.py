"""Semantic segmentation, with any timm backbone that has feature maps."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Segmenter as Segmenter
from .prediction import SemanticMap as SemanticMap

if TYPE_CHECKING:
    from .data import SegmentationData as SegmentationData
    from .evaluation import Report as Report
    from .evaluation import evaluate as evaluate
    from .task import Recipe as Recipe
    from .task import SegmentationTask as SegmentationTask
    from .task import build as build

Kept = Segmenter

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__, {"data": "SegmentationData", "evaluation": "Report evaluate", "task": "Recipe SegmentationTask build"}
)
