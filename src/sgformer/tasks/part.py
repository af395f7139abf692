"""A part of a trained model that is exported, and how an exported file is judged."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to export, and what it is judged by.

    Attributes:
        module: From prepared images `(B, channels, height, width)`, also of unknown height and width, to the outputs.
        reference: The model itself: from prepared images to the outputs.
        backbone: The module of both that holds the blocks.
        outputs: Names of the outputs.
        maps: How many significance maps `module` gives after them.
        channels: Of an image.
        about: JSON that the file has about itself.
        image_size: (height, width) at which the model was evaluated; None where each image has its own.
        batch: The one number of images that it takes; None for any.
        compare: From outputs of the file and of the model to the difference of each output, and its largest value; None
          to compare number by number.
    """

    module: nn.Module
    reference: Callable[[Tensor], Sequence[Tensor]]
    backbone: nn.Module
    outputs: tuple[str, ...]
    maps: int = 0
    channels: int = 3
    about: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    batch: int | None = None
    compare: Compare | None = None

    @property
    def names(self) -> list[str]:
        """Name all that the file gives: outputs, then significance maps."""
        return [*self.outputs, *(f"significance{i + 1}" for i in range(self.maps))]


class InHalf(nn.Module):
    """Computes in float16 what comes and goes in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the same outputs, about."""
        return tuple(y.float() for y in self.module(x.half()))
