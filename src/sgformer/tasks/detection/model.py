"""Trained detector."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.transforms.v2.functional import resize

from ...engine import weights
from ..backbones import Pyramid, freeze_batch_norms, preprocessing_of
from ..images import ImageLike, ReadsRGB, read_image
from ..model import Kept
from .augment import resized, to_tensor
from .heads import STRIDES, HeadOptions, create_heads, over_processes
from .prediction import Detections, to_coco
from .retina import LEVELS, Retina, create_neck

# Parts that are as wide as there are classes.
_PREDICTORS = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
    "retina.head.classification_head.cls_logits.",
)


@dataclass(frozen=True, kw_only=True)
class Preprocessing(ReadsRGB):
    """Preprocessing of a detector: from an image to the tensor that it was trained on; stored with the weights.

    Attributes:
        image_size: Length of the shorter side, and of the longer side at most.
        mean: Subtracted from each channel, in 0 to 1.
        std: What each channel is then divided by.
        multiple: Sides are rounded to multiples of it.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    multiple: int = 1

    def __post_init__(self) -> None:
        # JSON has lists only.
        for name in ("image_size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def of(cls, name: str, image_size: tuple[int, int], *, multiple: int = 1) -> "Preprocessing":
        """Return the preprocessing of a timm model, which knows its mean and deviation."""
        known = preprocessing_of(name, image_size=image_size)
        return cls(image_size=image_size, mean=known.mean, std=known.std, multiple=multiple)

    @property
    def interpolation(self) -> str:
        """Way to resize images."""
        return "bilinear"

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that an image of this one is resized to."""
        shorter, longest = self.image_size
        return resized(size, shorter=shorter, longest=longest, multiple=self.multiple)


class Detector(Kept):
    """Mask R-CNN, Faster R-CNN or RetinaNet of torchvision's parts over the feature pyramid of any timm backbone.

    No image is ever padded before the backbone, whose attention is global and would see it. Images of one size go
    through it together, others apart. Only the maps of a training batch are padded, for the heads. Without targets
    each image is on its own, so that what is found in it does not depend on the others.

    Args:
        name: Any model of timm that gives feature maps.
        classes: Class names; label 1 is the first of them.
        preprocessing: How an image becomes a tensor.
        heads: What finds objects in the maps.
        category_ids: The ids of the classes in the annotations; None: 1, 2, 3 and so on.
        kwargs: More arguments of the backbone, such as ``{"token_budget": 196}``.
        pretrained: Whether timm downloads trained weights of the backbone.

    Attributes:
        backbone: The `Pyramid`, in which a search for ``forward_significance`` finds the model.
        freeze_batch_norm: Whether the backbone's batch norms keep their statistics in training, as is right for
            trained ones, since batches are small.

    Raises:
        ValueError: The model is unknown (the nearest is named), or does not take an argument.

    Shape:
        - input: a list of (3, height, width), of 8 bits or floating-point values from 0 to 255, of any sizes
        - output, without targets: for each a dictionary with ``boxes`` (n, 4) in pixels of the image, ``labels``
          (n,) from 1, ``scores`` (n,), and ``masks`` (n, 1, 28, 28), probabilities within the box
        - output, with targets (``boxes``, ``labels``, ``masks``, and ``crowds`` (m, 4)): a dictionary of losses

    Example:
        >>> import sgformer
        >>> preprocessing = Preprocessing.of("sgformer_test", (64, 96))
        >>> model = Detector("sgformer_test", classes=["cat"], preprocessing=preprocessing, heads=HeadOptions())
        >>> model.eval()([torch.zeros(3, 50, 70, dtype=torch.uint8)])[0]["boxes"].shape[1]
        4
    """

    task = "detection"
    measure = "score"
    backbone: Pyramid
    settings = frozenset({"score_threshold", "max_detections"})
    files = frozenset({"coco", "annotations"})
    has_pyramid = True

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        heads: HeadOptions,
        category_ids: Sequence[int] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__(name, classes=classes, preprocessing=preprocessing, kwargs=kwargs)
        self.category_ids = tuple(category_ids or range(1, len(self.classes) + 1))
        self.heads = heads
        self.freeze_batch_norm = pretrained
        self.backbone = Pyramid(name, self.kwargs, strides=STRIDES, pretrained=pretrained)
        if heads.kind == "retinanet":
            self.neck = create_neck(self.backbone.channels, heads.channels)
            self.retina = Retina(heads, num_classes=len(self.classes))
        else:
            self.neck = FeaturePyramidNetwork(self.backbone.channels, heads.channels, LastLevelMaxPool())
            self.rpn, self.roi_heads = create_heads(heads, num_classes=len(self.classes))
        self.train()  # freezes batch norms; Lightning leaves the modes as they are

    def train(self, mode: bool = True) -> "Detector":
        """Set the training mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            freeze_batch_norms(self.backbone)
        return self

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Detect objects in each image; in training mode, with targets, return the losses. Images keep their size."""
        if targets is None:
            return [self._detect(image) for image in images]
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        maps = self._maps([self.normalize(image) for image in images])
        with torch.autocast(images[0].device.type, enabled=False):
            batch = ImageList(images[0], sizes)  # the heads look at the sizes alone
            dtype = self.mean.dtype
            objects = [
                {**target, **{name: target[name].to(dtype) for name in ("boxes", "crowds")}} for target in targets
            ]
            if self.heads.kind == "retinanet":
                return self.retina.losses(maps, batch, objects)
            proposals, losses = self.rpn(batch, maps, objects)
            _, more = self.roi_heads(maps, proposals, sizes, objects)
            return over_processes({**losses, **more}, self.rpn, self.roi_heads)

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        height, width = int(image.shape[1]), int(image.shape[2])
        size = self.preprocessing.size((height, width))
        maps = self._maps([self.normalize(resize(image, list(size), antialias=True))])
        with torch.autocast(image.device.type, enabled=False):
            batch = ImageList(image, [size])
            if self.heads.kind == "retinanet":
                found = self.retina.found(maps, batch)[0]
            else:
                proposals, _ = self.rpn(batch, maps)
                found = self.roi_heads(maps, proposals, [size])[0][0]
        factor = found["boxes"].new_tensor([width / size[1], height / size[0]]).repeat(2)
        return {**found, "boxes": found["boxes"] * factor}

    def _maps(self, images: list[Tensor]) -> "OrderedDict[str, Tensor]":
        """The pyramid of a batch, from fine to coarse, in the precision of the heads."""
        groups: dict[torch.Size, list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(image.shape, []).append(place)
        levels: list[list[Tensor]] = []
        for places in groups.values():
            maps = self.backbone(torch.stack([images[place] for place in places]))
            maps = maps[LEVELS] if self.heads.kind == "retinanet" else maps
            maps = self.neck(OrderedDict((str(level), map_) for level, map_ in enumerate(maps)))
            levels.append([map_.to(self.mean.dtype) for map_ in maps.values()])
        together = [_together(maps) for maps in zip(*levels, strict=True)]
        if len(groups) > 1:
            order = torch.tensor([place for places in groups.values() for place in places]).argsort()
            together = [map_[order.to(map_.device)] for map_ in together]
        return OrderedDict((str(level), map_) for level, map_ in enumerate(together))

    def set_max_detections(self, number: int) -> None:
        """Find up to so many objects in an image, 1 or more; no weight depends on it."""
        self.heads = replace(self.heads, max_detections=number)
        (self.retina if self.heads.kind == "retinanet" else self.roi_heads).detections_per_img = number

    def follow(self, key: str, value: Any) -> None:
        """Evaluate with another ``heads.max_detections``, or by boxes alone: ``heads.masks`` false."""
        if key == "heads.masks" and str(value).lower() == "false":
            if self.heads.masks:
                self.roi_heads.mask_roi_pool = None  # as torchvision tells that there are none
            self.heads = replace(self.heads, masks=False)
            return
        if key == "heads.masks":
            raise ValueError(f"--{key} is not followed here but as false, which judges boxes alone; leave it out")
        if key != "heads.max_detections":
            super().follow(key, value)
        if not str(value).isdecimal():
            raise ValueError(f"--{key} {value} is no number of objects")
        self.set_max_detections(int(value))

    def in_coco(self, paths: Sequence[Path], annotations: Path | None) -> Callable[[Sequence[Any]], Any]:
        """Prepare what is written to ``coco``: all objects with images and categories, or results with given ids."""
        if annotations is None:
            return partial(to_coco, classes=self.classes, category_ids=self.category_ids)
        from .results import Ids

        ids = Ids(annotations, self.classes, paths)
        return lambda results: ids.results(zip(paths, results, strict=True))

    @overload
    def predict(
        self, images: ImageLike, *, score_threshold: float = 0.5, max_detections: int | None = None
    ) -> Detections: ...
    @overload
    def predict(
        self, images: Sequence[ImageLike], *, score_threshold: float = 0.5, max_detections: int | None = None
    ) -> list[Detections]: ...

    def predict(self, images: Any, *, score_threshold: float = 0.5, max_detections: int | None = None) -> Any:
        """Find objects in an image.

        Args:
            images: A path, the bytes of a file, a PIL image or an array; or a list of such.
            score_threshold: How sure the model must be of an object, 0 to 1. Below 0.05 nothing is kept anyway.
            max_detections: How many objects to find at most; None: as the model was trained.

        Returns:
            `Detections`; for a list, a list of them.

        Raises:
            ImageError: An image cannot be read.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold {score_threshold} is outside 0 to 1")
        usual = self.heads.max_detections
        self.set_max_detections(usual if max_detections is None else max_detections)
        try:
            return self.of_each(images, lambda images: [self._found(image, score_threshold) for image in images])
        finally:
            self.set_max_detections(usual)

    def _found(self, image: ImageLike, score_threshold: float) -> Detections:
        pixels = to_tensor(read_image(image))
        found = self([pixels.to(self.mean.device)])[0]
        kept = found["scores"] >= score_threshold
        arrays = {name: tensor[kept].float().cpu().numpy() for name, tensor in found.items()}
        places = [int(label) - 1 for label in arrays["labels"]]
        return Detections(
            size=(int(pixels.shape[1]), int(pixels.shape[2])),
            boxes=arrays["boxes"],
            labels=tuple(self.classes[place] for place in places),
            scores=arrays["scores"],
            category_ids=tuple(self.category_ids[place] for place in places),
            mask_shapes=arrays["masks"][:, 0] if "masks" in arrays else None,
            limit=len(places) if len(places) >= self.heads.max_detections else None,
        )

    def describe(self) -> dict[str, Any]:
        """The heads, and the ids of the classes."""
        return {"heads": asdict(self.heads), "category_ids": self.category_ids}

    @classmethod
    def arguments_of(cls, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Heads, ids of the classes, and the preprocessing."""
        return {
            "preprocessing": Preprocessing(**metadata["preprocessing"]),
            "heads": HeadOptions(**metadata["heads"]),
            "category_ids": metadata["category_ids"],
        }

    def start_from(self, path: str | Path) -> None:
        """Take over a trained backbone; from a detector's weights also the heads.

        Where the classes differ, what is as wide as there are classes keeps its initial values; so does a mask head
        that the file does not have. WeightsError where the file is damaged, or the backbones or heads differ.
        """
        path = weights.locate(path)
        self.backbone.start_from(path)
        self.freeze_batch_norm = True
        self.train(self.training)
        tensors, metadata = weights.read(path)
        if metadata.get("task") != "detection":
            return
        own = self.state_dict()
        kept = ["backbone."]
        if tuple(metadata["classes"]) != self.classes:
            kept += _PREDICTORS
        masks = "roi_heads.mask_"
        if not any(name.startswith(masks) for name in tensors):
            kept.append(masks)
        taken = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(masks)}
        taken |= {name: tensor for name, tensor in own.items() if name.startswith(tuple(kept))}
        weights.fill(self, taken, source=path)


def _together(maps: Sequence[Tensor]) -> Tensor:
    """Maps of several sizes as one batch, with zeros at the right and at the bottom."""
    height, width = (max(map_.shape[side] for map_ in maps) for side in (2, 3))
    return torch.cat([pad(map_, (0, width - map_.shape[3], 0, height - map_.shape[2])) for map_ in maps])
