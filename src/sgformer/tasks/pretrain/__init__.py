"""A backbone that knows your images: a student learns from a teacher, any timm models, without labels."""

from typing import TYPE_CHECKING

from .. import lazily
from ..classification.model import Classifier

if TYPE_CHECKING:
    from .data import PretrainData
    from .task import PretrainTask, Recipe, build, evaluate
    from .teacher import Teacher

Kept = Classifier

# What needs the training libraries is imported when it is asked for.
__getattr__ = lazily(
    __name__,
    {
        "PretrainData": "data",
        "PretrainTask": "task",
        "Recipe": "task",
        "build": "task",
        "evaluate": "task",
        "Teacher": "teacher",
    },
)

__all__ = ["Classifier", "Kept", "PretrainData", "PretrainTask", "Recipe", "Teacher", "build", "evaluate"]
