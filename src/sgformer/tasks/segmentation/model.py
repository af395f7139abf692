"""Trained model of semantic segmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ...engine import weights
from ..backbones import Pyramid
from ..bands import restored
from ..decoders import HeadOptions, any_size, create_decoder, rounds_up
from ..images import ImageLike, Preprocessing
from ..model import Kept
from ..windows import STRIDE, InferenceOptions, Progress, Scorer, dense_map
from .masks import Colour, colours_for
from .prediction import SemanticMap


class Settings(TypedDict, total=False):
    """Settings of `Segmenter.predict`.

    Attributes:
        window: Side of the sliding windows, in pixels.
        shorter_side: What the image is resized to first; the map has its own size all the same.
        scales: Factors on the size, whose probabilities are averaged.
        flip: Whether it is also predicted mirrored, and both are averaged.
        progress: Wraps the windows of an image, which come one after another, such as `rich.progress.track`.
    """

    window: int | None
    shorter_side: int | None
    scales: Sequence[float] | None
    flip: bool | None
    progress: Progress


def class_map(
    score: Scorer, image: Any, preprocessing: Preprocessing, options: InferenceOptions, *, progress: Progress = iter
) -> NDArray[np.uint8]:
    """The class of each pixel of an image that was read, `(H, W)`; see `dense_map`."""
    return dense_map(score, image, preprocessing, options, _most_likely, dtype=np.uint8, progress=progress)


def _most_likely(scores: list[Tensor]) -> Tensor:
    # Scores of one view are taken as they are; the mean of several is one of probabilities.
    total = scores[0] if len(scores) == 1 else torch.stack([each.softmax(0) for each in scores]).sum(0)
    # Of equal scores both give the first, and argmax takes twice the time.
    return total.max(0).indices.to(torch.uint8)


class Segmenter(Kept):
    """A timm backbone with a head that gives each pixel a class.

    Args:
        name: Any model of timm with feature maps at strides 4, 8, 16 and 32.
        classes: Class names in the order of the outputs.
        preprocessing: How an image becomes a tensor; of its size only the size in training is meant.
        kwargs: More arguments of the backbone.
        head: Which head, how wide.
        inference: How images go through the model unless asked otherwise.
        palette: A colour for each class; empty: made up.
        pretrained: Whether timm downloads trained weights.

    Attributes:
        backbone: The `Pyramid`.

    Shape:
        - input: (B, channels, height, width)
        - output: (B, classes, height, width)

    Raises:
        ValueError: The model is unknown, has no such maps, or does not take an argument.
    """

    task = "segmentation"
    measure = "share of the image"
    backbone: Pyramid
    settings = frozenset(Settings.__annotations__)
    files = frozenset({"maps"})

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        kwargs: Mapping[str, Any] | None = None,
        head: HeadOptions | None = None,
        inference: InferenceOptions | None = None,
        palette: Sequence[Colour] = (),
        pretrained: bool = False,
    ) -> None:
        super().__init__(name, classes=classes, preprocessing=preprocessing, kwargs=kwargs)
        self.options, self.inference = head or HeadOptions(), inference or InferenceOptions()
        self.palette = tuple((r, g, b) for r, g, b in palette) or colours_for(len(self.classes))
        self.backbone = Pyramid(name, self.kwargs | any_size(name), pretrained=pretrained)
        self.decoder = create_decoder(self.backbone.channels, self.options)
        self.dropout = nn.Dropout2d(self.options.dropout)
        self.classifier = nn.Conv2d(self.decoder.out_channels, len(self.classes), 1)
        self.auxiliary = None
        if width := self.options.auxiliary:
            self.auxiliary = nn.Sequential(
                nn.Conv2d(self.backbone.channels[2], width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.Dropout2d(self.options.dropout),
                nn.Conv2d(width, len(self.classes), 1),
            )
        self.divisor = 1 if rounds_up(self.backbone, len(preprocessing.mean)) else 32

    def forward(self, images: Tensor, *, auxiliary: bool = False) -> Any:
        """Logits of prepared images, at their own size, float32; with ``auxiliary`` a list, that head's last."""
        height, width = images.shape[-2:]
        scores = self._scores(images, auxiliary=auxiliary)
        # A cell stands for a square of pixels; what lies beyond the image is cut off after enlarging.
        enlarged = [
            interpolate(each.float(), scale_factor=stride, mode="bilinear")[..., :height, :width]
            for each, stride in zip(scores, (STRIDE, 16), strict=False)
        ]
        return enlarged if auxiliary else enlarged[0]

    def scores(self, images: Tensor) -> Tensor:
        """Logits of prepared images, a cell for each started square of 4x4 pixels: (B, classes, rows, columns)."""
        return self._scores(images, auxiliary=False)[0]

    def _scores(self, images: Tensor, *, auxiliary: bool) -> list[Tensor]:
        height, width = images.shape[-2:]
        below, right = -height % self.divisor, -width % self.divisor
        maps = self.backbone(pad(images, (0, right, 0, below)) if below or right else images)
        scores = [self.classifier(self.dropout(self.decoder(maps)))]
        if auxiliary and self.auxiliary is not None:
            scores.append(self.auxiliary(maps[2]))
        # Cells of the padding alone are none of the image's.
        return [
            each[..., : -(-height // stride), : -(-width // stride)]
            for each, stride in zip(scores, (STRIDE, 16), strict=False)
        ]

    @overload
    def predict(self, images: ImageLike, **settings: Unpack[Settings]) -> SemanticMap: ...
    @overload
    def predict(self, images: Sequence[ImageLike], **settings: Unpack[Settings]) -> list[SemanticMap]: ...

    def predict(self, images: Any, **settings: Unpack[Settings]) -> Any:
        """Segment images of any size.

        Args:
            images: A path, the bytes of a file, a PIL image or an array; or a list of such.
            settings: ``window``, ``shorter_side``, ``scales``, ``flip``, ``progress``, see `Settings`; by default as
                the model was trained to be used (``inference``).

        Returns:
            A `SemanticMap`; for a list, a list of them.

        Raises:
            ImageError: An image cannot be read.
            ValueError: A setting is out of range.
        """
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        progress = given.pop("progress", iter)
        options = replace(self.inference, **given)
        return self.of_each(
            images,
            lambda images: [
                SemanticMap(
                    self.indices(self.preprocessing.read(image), options, progress=progress), self.classes, self.palette
                )
                for image in images
            ],
        )

    def indices(
        self, image: Any, options: InferenceOptions | None = None, *, progress: Progress = iter
    ) -> NDArray[np.uint8]:
        """The class of each pixel of an image that was read, `(H, W)`, in the mode in which the model is."""
        options = options or self.inference

        def score(pixels: NDArray[Any]) -> Tensor:
            tensor = torch.from_numpy(pixels.copy()).to(self.mean.device)
            return self.scores(self.normalize(tensor.permute(2, 0, 1))[None])[0].float()

        return class_map(score, image, self.preprocessing, options, progress=progress)

    def describe(self) -> dict[str, Any]:
        """The head, how images go through it, and the colours."""
        return {"head": asdict(self.options), "inference": asdict(self.inference), "palette": self.palette}

    @classmethod
    def arguments_of(cls, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Head, inference, colours and preprocessing."""
        return {
            "preprocessing": restored(metadata["preprocessing"]),
            "head": HeadOptions(**metadata["head"]),
            "inference": InferenceOptions(**metadata["inference"]),
            "palette": metadata["palette"],
        }

    def start_from(self, path: str | Path) -> None:
        """Take over trained weights: of a segmenter of the same head all, else those of the backbone.

        Where a segmenter has other classes, its last layers are left as they are. WeightsError where the file is
        damaged, or the backbones differ.
        """
        self.backbone.start_from(path)
        tensors, metadata = weights.read(path)
        if metadata.get("task") != "segmentation" or metadata.get("head") != asdict(self.options):
            return
        last = ("classifier.", "auxiliary.4.")
        own = self.state_dict()
        same = tuple(metadata["classes"]) == self.classes
        # The backbone is in place, with positions resized where need be.
        kept = tuple(name for name in own if name.startswith("backbone.") or (not same and name.startswith(last)))
        weights.fill(self, tensors | {name: own[name] for name in kept}, source=path)
