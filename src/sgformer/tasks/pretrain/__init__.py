"""A backbone that knows your images: a student learns from a teacher, any timm models, without labels."""

from ..classification.model import Classifier
from .data import PretrainData
from .task import PretrainTask, Recipe, build, watchers
from .teacher import Teacher

load = Classifier.from_weights

__all__ = ["PretrainData", "PretrainTask", "Recipe", "Teacher", "build", "load", "watchers"]
