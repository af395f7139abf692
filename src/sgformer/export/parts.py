"""Parts of a trained model that `sgformer export` writes to a file: another for each task."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone.exporting import Exportable, ExportableFeatures, num_maps

if TYPE_CHECKING:
    from ..tasks.classification.model import Classifier
    from ..tasks.detection.model import Detector
    from ..tasks.segmentation.model import Segmenter


class ExportError(ValueError):
    """A model that cannot be exported, or a file that does not compute what the model computes."""


Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], dict[str, tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to export, and what it is judged by.

    Attributes:
        module: From prepared images `(B, channels, height, width)` to the outputs, and then the significance maps,
            in operations that exporters take.
        reference: The model itself: from prepared images to the outputs.
        backbone: The module of `reference` that holds its blocks.
        outputs: Names of the outputs, without the significance maps.
        channels: Of an image.
        about: What the file says of itself, in JSON's types.
        batch: The one number of images that it takes; None for any.
        compare: From outputs of the file and of the model to the difference of each output, and its largest value;
            None to compare number by number.
    """

    module: nn.Module
    reference: Callable[[Tensor], Sequence[Tensor]]
    backbone: nn.Module
    outputs: tuple[str, ...]
    channels: int
    about: dict[str, Any]
    batch: int | None = None
    compare: Compare | None = None

    @property
    def names(self) -> list[str]:
        """Name all that the file gives: outputs, then significance maps."""
        maps = num_maps(self.backbone)
        return [*self.outputs, *(f"significance{i + 1}" for i in range(maps))]


def part_of(model: Any, *, convs: bool = False, half: bool = False, pyramid: bool = False) -> Part:
    """Choose the part of a trained model that goes into a file: all of it, or the pyramid of a detector.

    Args:
        model: What `tasks.load` gives.
        convs: As of `ExportableFeatures`.
        half: Whether the file computes in float16.
        pyramid: Whether a detector's heads are left out.

    Raises:
        ExportError: Its backbone is no SG-Former.
        ValueError: It is guided by something else than significance, or has no pyramid to leave heads out of.
    """
    if num_maps(model.backbone) == 0:
        raise ExportError(f"{model.name} is no SG-Former; only models with its backbone can be exported")
    task, make = next((task, make) for kind, task, make in _TASKS if type(model).__name__ == kind)
    if pyramid and task != "detection":
        raise ValueError(f"--pyramid is for detectors; {model.name} is for {task}, leave it out")
    part: Part = make(model, _Form(convs=convs, half=half, pyramid=pyramid))
    about = {
        "format": 1,
        "task": task,
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


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Form in which a part is computed; see `part_of`."""

    convs: bool
    half: bool
    pyramid: bool

    @property
    def features(self) -> dict[str, bool]:
        """For `ExportableFeatures`."""
        return {"convs": self.convs}

    def precise(self, module: nn.Module) -> nn.Module:
        """Convert to float16 if that is asked for."""
        return InHalf(module) if self.half else module


def _classifier(model: "Classifier", form: _Form) -> Part:
    backbone: Any = model.backbone
    return Part(
        module=form.precise(Exportable(backbone, **form.features)),
        reference=lambda x: [backbone(x)],
        backbone=backbone,
        outputs=("logits",),
        channels=backbone.in_chans,
        about={"names": [model.names.get(name, name) for name in model.classes]},
    )


def _segmenter(model: "Segmenter", form: _Form) -> Part:
    return Part(
        module=form.precise(ExportableSegmenter(model, **form.features)),
        reference=lambda x: [model(x)],
        backbone=model.backbone,
        outputs=("logits",),
        channels=len(model.preprocessing.mean),
        about={"palette": [list(colour) for colour in model.palette]},
    )


def _detector(model: "Detector", form: _Form) -> Part:
    from . import detector

    first = 8 if model.heads.kind == "retinanet" else 4
    strides = [first * 2**level for level in range(5)]
    maps = form.precise(ExportablePyramid(model, **form.features))
    shared: dict[str, Any] = {"backbone": model.backbone, "channels": 3}
    about = {"category_ids": list(model.category_ids), "part": "pyramid"}
    if form.pyramid:
        return Part(
            module=maps,
            reference=lambda x: list(model._maps(list(x)).values()),
            outputs=tuple(f"stride{stride}" for stride in strides),
            about=about,
            **shared,
        )
    outputs = ("boxes", "labels", "scores", *(("masks",) if model.heads.masks else ()))
    least = (model.retina if model.heads.kind == "retinanet" else model.roi_heads).score_thresh
    return Part(
        module=detector.ExportableDetector(model, maps, len(strides)),
        reference=lambda x: detector.reference(model, x),
        outputs=outputs,
        about=about | {"part": "objects", "max_detections": model.heads.max_detections},
        batch=1,
        compare=partial(detector.compare, names=outputs, least=least),
        **shared,
    )


# The name of what a task keeps, the task, and the function above. By name, since a task is imported when asked for.
_TASKS: tuple[tuple[str, str, Callable[[Any, _Form], Part]], ...] = (
    ("Classifier", "classification", _classifier),
    ("Segmenter", "segmentation", _segmenter),
    ("Detector", "detection", _detector),
)


class InHalf(nn.Module):
    """Computes in float16 what comes and goes in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the same outputs, about."""
        return tuple(y.float() for y in self.module(x.half()))


class ExportablePyramid(nn.Module):
    """The feature pyramid of a detector: the backbone's maps through torchvision's pyramid, and coarser maps.

    Shape:
        - x: `(B, 3, height, width)`
        - returns: maps of stride 4, 8, 16, 32 and 64, or 8 to 128 of a RetinaNet, `(B, channels, H, W)`, and
          `(B, H, W)` for each pair
    """

    def __init__(self, model: "Detector", *, convs: bool = False) -> None:
        super().__init__()
        self.features = ExportableFeatures(model.backbone, convs=convs)
        self.neck = copy.deepcopy(model.neck).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps from fine to coarse, and what was found significant."""
        features, maps = self.features(x)
        taken = features[-len(self.neck.inner_blocks) :]  # pyright: ignore
        pyramid = self.neck({str(level): map_ for level, map_ in enumerate(taken)})
        return (*pyramid.values(), *maps)


class ExportableSegmenter(nn.Module):
    """A segmenter that returns logits of the image's own size and significance maps.

    Shape:
        - x: `(B, 3, height, width)`
        - returns: `(B, classes, height, width)`, and `(B, H, W)` for each pair
    """

    def __init__(self, model: "Segmenter", *, convs: bool = False) -> None:
        super().__init__()
        self.features = ExportableFeatures(model.backbone, convs=convs)
        self.decoder = copy.deepcopy(model.decoder).eval()
        self.classifier = copy.deepcopy(model.classifier)
        self.fuse = self._upernet if model.options.name == "upernet" else self._semantic_fpn
        for module in list(self.decoder.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, _MeanCells(int(child.output_size)))  # pyright: ignore

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gives each pixel a score for each class, and tells what it finds significant."""
        features, maps = self.features(x)
        logits = self.classifier(self.fuse(features)).float()
        logits = _resized(logits, (4 * logits.shape[2], 4 * logits.shape[3]))
        return (_placed(logits, x.shape[2], x.shape[3]), *maps)

    def _upernet(self, features: list[Tensor]) -> Tensor:
        return self.decoder(features)

    def _semantic_fpn(self, features: list[Tensor]) -> Tensor:
        """Compute `SemanticFPN`, which itself asks whether sizes are odd and grows maps by factors."""
        decoder: Any = self.decoder.decoder
        rows, columns = features[-1].shape[-2:]
        x, fused = None, None
        for level in reversed(range(4)):
            height, width = rows * 2 ** (3 - level), columns * 2 ** (3 - level)
            map_ = _placed(features[level], height, width)
            if x is None:
                x = decoder.p5(map_)
            else:
                skip = getattr(decoder, f"p{level + 2}").skip_conv(map_)
                x = _resized(x, (height, width), mode="nearest") + skip
            y = x
            for i, block in enumerate(decoder.seg_blocks[3 - level].block):
                y = block.block(y)
                if block.upsample:
                    y = _resized(y, (height * 2 ** (i + 1), width * 2 ** (i + 1)), align_corners=True)
            fused = y if fused is None else fused + y
        assert fused is not None
        return _placed(fused, *features[0].shape[-2:])


class _MeanCells(nn.Module):
    """`nn.AdaptiveAvgPool2d` to a square, by two matrix products, for maps of any size."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Means of `side * side` cells, which may overlap by a place."""
        rows, columns = (self._cells(length, x) for length in x.shape[-2:])
        return rows @ x @ columns.T

    def _cells(self, length: Any, like: Tensor) -> Tensor:
        place = torch.arange(length, device=like.device)
        cell = torch.arange(self.side, device=like.device).unsqueeze(1)
        first = cell * length // self.side
        last = ((cell + 1) * length + self.side - 1) // self.side
        inside = ((place >= first) & (place < last)).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


def _resized(x: Tensor, size: Any, *, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    if mode == "nearest":
        return F.interpolate(x, size, mode=mode)
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


def _placed(x: Tensor, height: Any, width: Any) -> Tensor:
    """A map `(B, c, H, W)` cut off at the right and the bottom, or with its edge repeated there."""
    row, column = (
        torch.minimum(torch.arange(new, device=x.device), torch.full((1,), old - 1, device=x.device))
        for new, old in zip((height, width), x.shape[-2:], strict=True)
    )
    return x.index_select(2, row).index_select(3, column)
