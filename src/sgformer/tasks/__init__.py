"""The tasks, by name. A task is a folder with the same file names as the others; a line here; a recipe.

What each file adds to the shared one of the same name, which lies in this folder:

=================== ====================== ===================================================================
file                begins from            adds
=================== ====================== ===================================================================
``data.py``         `Data`                 the images of each split, as batches
``options.py``      `DataOptions`          sections of its recipes: which images, how large
``augment.py``                             augmentation of training images
``model.py``        `Kept`                 the model that is saved: ``predict``, ``save``, ``from_weights``
``prediction.py``   `Prediction`           what the model says of an image
``evaluation.py``   `BaseReport`           ``evaluate(model, options)``: how good it is
``export.py``       `Part`                 ``part(model, *, half=False)``: what is exported
``task.py``         `Task`, `Recipe`       the training step; ``build(recipe)``: task and data of a run
=================== ====================== ===================================================================

`TaskPackage` is what the commands know of it; `tests/tasks/test_contract.py` holds every task to it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Data
    from .evaluation import BaseReport
    from .export import Part
    from .model import Kept
    from .options import Recipe
    from .task import Task


@dataclass(frozen=True)
class TaskPackage:
    """A task's package, as commands see it. Modules are imported when needed: prediction needs no training library."""

    name: str  # of the package

    def _load(self, file: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{self.name}.{file}"), name)

    @property
    def Kept(self) -> "type[Kept]":
        """Class of its trained models."""
        return importlib.import_module(self.name).Kept

    @property
    def Recipe(self) -> "type[Recipe]":
        """Class of its recipes."""
        return self._load("task", "Recipe")

    def build(self, recipe: Any) -> "tuple[Task, Data]":
        """Prepare a run: scan the data, then build a model for its classes; ValueError before anything is written."""
        return self._load("task", "build")(recipe)

    def evaluate(
        self, model: Any, data: Any, *, num_worst: int = 0, progress: Callable[[Any], Any] = iter
    ) -> "BaseReport | None":
        """Evaluate a model on the validation images, in one pass over them; None for a task without labels.

        ``data`` are the options of the recipe's section, ``num_worst`` how many mistakes are kept, and ``progress`` is
        wrapped around the batches. The model stays in its mode.
        """
        return self._load("evaluation", "evaluate")(model, data, num_worst=num_worst, progress=progress)

    def part(self, model: Any, *, half: bool = False, **options: Any) -> "Part":
        """The part of a model that is exported, in half precision if that is wanted."""
        return self._load("export", "part")(model, half=half, **options)


# Task to module, as text: a task is imported when it is asked for.
TASKS = {
    "classification": "sgformer.tasks.classification",
    "detection": "sgformer.tasks.detection",
    "pretrain": "sgformer.tasks.pretrain",
    "segmentation": "sgformer.tasks.segmentation",
}


def get(name: str) -> TaskPackage:
    """The package of a task; ValueError where there is no such task."""
    if name not in TASKS:
        from ..engine.recipe import nearest

        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}")
    return TaskPackage(TASKS[name])


def load(weights: str | Path, *, device: str = "cpu") -> "Kept":
    """A trained model, ready to predict, from a run folder (its best weights) or a weights file.

    Raises:
        WeightsError: The file is damaged, or of a task that this version does not know.
    """
    from .model import restore

    return restore(weights, lambda task: get(task).Kept if task in TASKS else None).to(device)
