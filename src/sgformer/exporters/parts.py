"""The part of a trained model that is exported, of any task, with its significance maps."""

from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from ..backbone.ranking import num_maps, record_significance
from ..tasks import get
from ..tasks.export import Part


class ExportError(ValueError):
    """A model that cannot be exported, or a file that does not compute what the model computes."""


def part_of(model: Any, *, half: bool = False, pyramid: bool = False) -> Part:
    """Choose the part of a trained model that goes into a file: all of it, or the pyramid of a detector.

    ExportError where its backbone is no SG-Former; ValueError where it has no pyramid to leave heads out of.
    """
    if num_maps(model.backbone) == 0:
        raise ExportError(f"{model.name} is no SG-Former; only models with its backbone can be exported")
    if pyramid and not model.has_pyramid:
        raise ValueError(f"--pyramid is for detectors; {model.name} is for {model.task}, leave it out")
    part = get(model.task).part(model, half=half, **({"pyramid": True} if pyramid else {}))
    part = replace(part, module=Measured(part.module), maps=num_maps(model.backbone))
    about = {
        "format": 1,
        "task": model.task,
        "model": {"name": model.name, "kwargs": model.kwargs},
        "classes": list(model.classes),
        "preprocessing": asdict(model.preprocessing),
        "precision": "float16" if half else "float32",
        "input": "images",
        "batch": part.batch,
        "outputs": part.names,
        **part.about,
    }
    return replace(part, about=about)


class Measured(nn.Module):
    """A module that also gives the significance maps that the backbone in it measures.

    So a file can be judged with the ranking held: the model is given the maps that the file measured, and must then
    give what the file gives.

    Shape:
        - x: `(B, channels, height, width)`
        - returns: the module's outputs, and `(B, H, W)` for each pair
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The outputs, and what was found significant."""
        with record_significance(self.module) as maps:
            outputs = self.module(x)
        return (*outputs, *maps)
