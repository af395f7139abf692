"""Pretraining by distillation, without labels: a student learns from a teacher, both any timm models."""

from typing import TYPE_CHECKING

from .. import lazily
from ..classification.model import Classifier as Classifier

if TYPE_CHECKING:
    from .data import PretrainData as PretrainData
    from .task import PretrainTask as PretrainTask
    from .task import Recipe as Recipe
    from .task import build as build
    from .task import evaluate as evaluate
    from .teacher import Teacher as Teacher

Kept = Classifier

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__, {"data": "PretrainData", "task": "PretrainTask Recipe build evaluate", "teacher": "Teacher"}
)
