"""The tasks, by name. A task is a folder with ``data.py``, ``model.py``, ``task.py``; a line here; a recipe.

What a task's folder offers, so that the commands need to know no more:

=========================== ==========================================================================
``Recipe``                  a dataclass of dataclasses, the sections of its recipes
``build(recipe)``           a LightningModule with ``.model`` and ``.monitor``, and a LightningDataModule
``Kept``                    the model that people keep, a `kept.Kept`: ``predict``, ``save``, ``from_weights``
``evaluate(model, data)``   a report, a `kept.BaseReport`; a task whose models are another's has none
=========================== ==========================================================================

The data module has ``examples()``: a few validation images of one size, to watch a model by.
``watchers(recipe, data, folder)`` gives callbacks for the run.

``model.predict(image, **settings)`` takes whatever `images.read_image` does, or a list of it, and gives a
prediction for each: ``summary()`` is a line for people, ``to_dict()`` for JSON, ``draw(image)`` an image of it.
The LightningModule has ``loss(batch)``, which `engine` calls once more to find where a NaN comes from.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .kept import Kept

# Task to module, as text: a task is imported when it is asked for.
TASKS = {
    "classification": "sgformer.tasks.classification",
    "detection": "sgformer.tasks.detection",
    "pretrain": "sgformer.tasks.pretrain",
    "segmentation": "sgformer.tasks.segmentation",
}


def get(name: str) -> ModuleType:
    """The folder of a task, imported.

    Raises:
        ValueError: There is no such task.
    """
    if name not in TASKS:
        from ..engine.recipe import nearest

        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)} Tasks: {', '.join(TASKS)}")
    return importlib.import_module(TASKS[name])


def load(weights: str | Path, *, device: str = "cpu") -> "Kept":
    """A trained model, ready to predict, from a run folder or a weights file.

    Args:
        weights: A run folder (its best weights) or a weights file.
        device: Where the model goes, such as ``cpu`` or ``cuda``.

    Returns:
        What the task keeps, such as a `Classifier`, in evaluation mode.

    Raises:
        WeightsError: The file is damaged, or of a task that this version does not know.
    """
    from .kept import restore

    return restore(weights, lambda task: get(task).Kept if task in TASKS else None).to(device)


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__``, which imports names from their modules when they are asked for.

    Args:
        package: The package's name.
        places: Each name's module within it.
    """

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        setattr(sys.modules[package], name, value)  # asked for once
        return value

    return __getattr__
