"""A backbone that knows your images: a student learns from a teacher, any timm models, without labels."""

from ..classification.model import Classifier
from .data import PretrainData
from .task import PretrainTask, Recipe, build, watchers
from .teacher import Teacher

Kept = Classifier

__all__ = ["Kept", "PretrainData", "PretrainTask", "Recipe", "Teacher", "build", "watchers"]
