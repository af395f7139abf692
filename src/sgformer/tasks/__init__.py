"""The tasks, by name. A task is a folder with ``data.py``, ``model.py``, ``task.py``; a line here; a recipe.

What a task's folder offers, so that the commands need to know no more:

=========================== ==========================================================================
``Recipe``                  a dataclass of dataclasses, the sections of its recipes
``build(recipe)``           a LightningModule with ``.model`` and ``.monitor``, and a LightningDataModule
``load(weights)``           the model that people keep: ``predict``, ``save``
``evaluate(model, data)``   a report: ``to_dict()``, ``to_table()``, and ``to_lines()`` where more belongs below; a
                            task whose models are another's has none
=========================== ==========================================================================

The data module has ``examples()``: a few validation pictures of one size, to watch a model by.
``watchers(recipe, data, folder)`` may give callbacks for the run, and need not be there.

``model.predict(picture, **settings)`` takes whatever `images.read_picture` does, or a list of it, and gives a
prediction for each: ``summary()`` is a line for people, ``to_dict()`` for JSON, ``draw(picture)`` a picture of it.
The LightningModule has ``loss(batch)``, which `engine` calls once more to find where a NaN comes from.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

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


def load(weights: str | Path, *, device: str = "cpu") -> Any:
    """A trained model, ready to predict, from a run folder or a weights file.

    Args:
        weights: A run folder (its best weights) or a weights file.
        device: Where the model goes, such as ``cpu`` or ``cuda``.

    Returns:
        What the task keeps; for classification a `Classifier`, in evaluation mode.
    """
    from ..engine.weights import WeightsError, locate, read_metadata

    path = locate(weights)
    task = read_metadata(path).get("task")
    if task not in TASKS:
        raise WeightsError(
            f"{path} is for the task {task!r}, which this version does not know; update sgformer"
        )
    return get(task).load(path).to(device)
