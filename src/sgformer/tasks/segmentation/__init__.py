"""Semantic segmentation, with any timm backbone that has feature maps."""

from .model import Segmenter as Segmenter
from .prediction import SemanticMap as SemanticMap

Kept = Segmenter
