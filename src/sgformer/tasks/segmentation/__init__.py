"""Semantic segmentation, learned from masks, on any timm backbone with feature maps."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Segmenter
from .prediction import SemanticMap

if TYPE_CHECKING:
    from .data import SegmentationData
    from .evaluation import Report, evaluate
    from .task import Recipe, SegmentationTask, build

Kept = Segmenter

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "SegmentationData": "data",
        "Report": "evaluation",
        "evaluate": "evaluation",
        "SegmentationTask": "task",
        "Recipe": "task",
        "build": "task",
    },
)

__all__ = [
    "Kept",
    "Recipe",
    "Report",
    "SegmentationData",
    "SegmentationTask",
    "Segmenter",
    "SemanticMap",
    "build",
    "evaluate",
]
