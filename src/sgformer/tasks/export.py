"""The part of a trained model that is exported, and how an exported file is compared with it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module to export, and the reference for its outputs."""

    # From prepared images `(B, channels, height, width)`, also of unknown height and width, to the outputs.
    module: nn.Module
    reference: Callable[[Tensor], Sequence[Tensor]]  # the model itself: likewise
    backbone: nn.Module  # of both, that holds the blocks
    outputs: tuple[str, ...]  # their names
    scores: str | None = None  # the output with a score for each object of a list, 0 for none; None: it lists none
    maps: int = 0  # how many significance maps `module` gives after them
    channels: int = 3
    about: dict[str, Any] = field(default_factory=dict)  # JSON that the file has about itself
    image_size: tuple[int, int] | None = None  # (height, width) of evaluation; None where each image has its own
    batch: int | None = None  # the one number of images that it takes
    # From outputs of the file and of the model to the difference of each, and its largest value; else by number.
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
