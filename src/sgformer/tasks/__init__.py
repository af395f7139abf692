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
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from .data import Data
    from .evaluation import BaseReport
    from .model import Kept
    from .options import Recipe
    from .task import Task


class TaskPackage(Protocol):
    """A task's package, as commands see it."""

    Recipe: "type[Recipe]"
    Kept: "type[Kept]"

    def build(self, recipe: Any) -> "tuple[Task, Data]":
        """Prepare a run: scan the data, then build a model for its classes; ValueError before all is written."""
        ...

    def evaluate(
        self, model: Any, data: Any, *, num_worst: int = 0, progress: Callable[[Any], Any] = iter
    ) -> "BaseReport | None":
        """Evaluate a model on the validation images, in one pass over them; None for a task without labels.

        ``data`` are the options of the recipe's section, ``num_worst`` how many mistakes are kept, and ``progress`` is
        wrapped around the batches. The model stays in its mode.
        """
        ...


# Task to module, as text: a task is imported when it is asked for.
TASKS = {
    "classification": "sgformer.tasks.classification",
    "detection": "sgformer.tasks.detection",
    "pretrain": "sgformer.tasks.pretrain",
    "segmentation": "sgformer.tasks.segmentation",
}


def get(name: str) -> TaskPackage:
    """The package of a task, imported; ValueError where there is no such task."""
    if name not in TASKS:
        from ..engine.recipe import nearest

        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}")
    return cast(TaskPackage, importlib.import_module(TASKS[name]))


def load(weights: str | Path, *, device: str = "cpu") -> "Kept":
    """A trained model, ready to predict, from a run folder (its best weights) or a weights file.

    Raises:
        WeightsError: The file is damaged, or of a task that this version does not know.
    """
    from .model import restore

    return restore(weights, lambda task: get(task).Kept if task in TASKS else None).to(device)


def lazily(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``, which imports the names of each module in it when they are asked for."""
    places = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, value)  # asked for once
        return value

    return __getattr__
