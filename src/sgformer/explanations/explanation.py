"""Explanation of one image: what each pair of blocks measures, and how it spends its keys."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .render import Cell, ImageLike, as_image, combine, contact_sheet, covered_shares, overlay
from .significance import significance_maps, spending_maps
from .spending import band_colours, keys_image, spending_image

VIEWS = ("significance", "spending", "keys")
_NOTE = "spending: 28:1 is 28 tokens to one key"


@dataclass(frozen=True, eq=False)
class Pair:
    """Maps of a pair of blocks for one image: significance, group sizes, keys.

    Attributes:
        stage: from 1.
        number: of the pair within its stage, from 1.
        significance: `(H, W)`, float32; 1 is average.
        group_size: `(H, W)`, int64, how many tokens are merged into one.
        keys: `(H, W)`, float32, how many keys each token accounts for; the sum is their number.
        covered: share of the map's height and width that the image fills.
    """

    stage: int
    number: int
    significance: NDArray[np.float32]
    group_size: NDArray[np.int64]
    keys: NDArray[np.float32]
    covered: tuple[float, float]

    @property
    def name(self) -> str:
        """Name for display."""
        return f"stage {self.stage}, pair {self.number}"

    def draw(self, image: ImageLike, view: str) -> NDArray[np.uint8]:
        """The image with the map over it, uint8 `(height, width, 3)`; `view` is one of `VIEWS`."""
        if view == "significance":
            return overlay(image, self.significance, covered=self.covered)
        if view == "spending":
            return spending_image(image, self.group_size, covered=self.covered)
        if view == "keys":
            return keys_image(image, self.keys, covered=self.covered)
        raise ValueError(f"view is {view!r}; choose one of {', '.join(VIEWS)}")


@dataclass(frozen=True, eq=False)
class Explanation:
    """All pairs of a model on one image.

    Attributes:
        image: RGB, as it came.
        size: (height, width) that the model saw.
        pairs: from the first to the last.
    """

    image: Image.Image
    size: tuple[int, int]
    pairs: list[Pair] = field(default_factory=list)

    def stages(self) -> Iterator[tuple[int, list[Pair]]]:
        """Each stage with its pairs."""
        for stage in dict.fromkeys(pair.stage for pair in self.pairs):
            yield stage, [pair for pair in self.pairs if pair.stage == stage]

    def combined(self) -> NDArray[np.uint8]:
        """The significance of all pairs together over the image."""
        size = self.image.height, self.image.width
        covered = [pair.covered for pair in self.pairs]
        return overlay(self.image, combine([p.significance for p in self.pairs], size, covered=covered))

    def stage_grid(self, stage: int) -> Image.Image:
        """All pairs of a stage, one a row: significance, spending, and keys by region."""
        pairs = [pair for pair in self.pairs if pair.stage == stage]
        H, W = pairs[0].significance.shape
        ratio = max(self.image.size) / min(self.image.size)
        cell_size = round(320 * min(2.0, max(1.0, ratio / 1.6)))  # long images stay legible
        image = _reduced(self.image, cell_size)
        rows = [[Cell(pair.draw(image, view), _caption(pair, view)) for view in VIEWS] for pair in pairs]
        return contact_sheet(
            rows, title=f"Stage {stage}: {H} x {W} tokens", headings=VIEWS, cell_size=cell_size, legend=True, note=_NOTE
        )

    def summary(self) -> Image.Image:
        """The image, its significance, and how the last pair of each stage spends its keys."""
        last, cell_size = [pairs[-1] for _, pairs in self.stages()], 300
        image = _reduced(self.image, cell_size)
        above = [Cell(p.draw(image, "significance"), p.name) for p in last]
        below = [Cell(p.draw(image, "spending"), _bands(p)) for p in last]
        together = replace(self, image=image).combined()
        rows = [[Cell(image, "the image"), *above], [Cell(together, "significance,\nall pairs together"), *below]]
        return contact_sheet(rows, cell_size=cell_size, legend=True, note=_NOTE)


def explain_image(model: nn.Module, image: ImageLike, x: Tensor) -> Explanation:
    """Explain what each pair of blocks of a model does with an image.

    Args:
        model: an SG-Former, or a model that holds one.
        image: what is shown, RGB or gray, of any size.
        x: the same image as the model takes it, `(1, 3, height, width)`, normalised, not cropped.

    Raises:
        ValueError: nothing in the model measures significance, or `x` is not one image.

    Example:
        >>> import sgformer, timm, torch
        >>> model = timm.create_model("sgformer_test")
        >>> explanation = explain_image(model, np.zeros((90, 120, 3), np.uint8), torch.zeros(1, 3, 96, 128))
        >>> [(pair.name, pair.significance.shape) for pair in explanation.pairs]
        [('stage 1, pair 1', (24, 32)), ('stage 2, pair 1', (12, 16)), ('stage 3, pair 1', (6, 8))]
    """
    if x.ndim != 4 or len(x) != 1:
        raise ValueError(f"x is {tuple(x.shape)}; give one image, (1, 3, height, width)")
    size = x.shape[-2], x.shape[-1]
    maps = significance_maps(model, x)
    shares = covered_shares([significance.numpy() for significance in maps], size)
    pairs: list[Pair] = []
    for significance, spent, covered in zip(maps, spending_maps(model, x, maps), shares, strict=True):
        arrays = significance[0].numpy(), spent.group_size[0].numpy(), spent.keys[0].numpy()
        new = not pairs or pairs[-1].significance.shape != arrays[0].shape  # a stage has half the tokens a side
        stage = pairs[-1].stage + new if pairs else 1
        pairs.append(Pair(stage, 1 if new else pairs[-1].number + 1, *arrays, covered))
    return Explanation(as_image(image), size, pairs)


def _reduced(image: Image.Image, cell_size: int) -> Image.Image:
    """Large enough to be drawn into and then shown in a cell, and no larger: drawing takes time by the pixel."""
    small = image.copy()
    small.thumbnail((2 * cell_size, 2 * cell_size), Image.Resampling.LANCZOS)
    return small


def _caption(pair: Pair, view: str) -> str:
    if view == "significance":
        return pair.name
    if view == "spending":
        return _bands(pair)
    return f"{pair.keys.sum():.0f} keys by region"


def _bands(pair: Pair) -> str:
    """Group sizes from fine to coarse with what the colours are, a line each: portraits are narrow."""
    names = ("yellow", "purple") if len(band_colours(pair.group_size)) == 2 else ("yellow", "green", "purple")
    sizes = band_colours(pair.group_size)
    return "\n".join(f"{name} {size}:1" for name, size in zip(names, sizes, strict=False))
