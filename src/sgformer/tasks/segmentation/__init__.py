"""Semantic segmentation, learned from masks, on any timm backbone with feature maps."""

from typing import TYPE_CHECKING

from .. import lazily
from .model import Segmenter
from .prediction import SemanticMap

if TYPE_CHECKING:
    from .data import SegmentationData
    from .mistakes import worst
    from .task import Recipe, Report, SegmentationTask, build, evaluate, watchers

Kept = Segmenter

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "SegmentationData": "data",
        "Recipe": "task",
        "Report": "task",
        "SegmentationTask": "task",
        "build": "task",
        "evaluate": "task",
        "watchers": "task",
        "worst": "mistakes",
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
    "watchers",
    "worst",
]
