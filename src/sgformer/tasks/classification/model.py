"""Trained classifier."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from ...engine import weights
from ..backbones import adapt_inputs, create_backbone
from ..bands import restored
from ..images import ImageLike, Preprocessing
from ..model import Kept
from .prediction import Prediction


class Classifier(Kept):
    """A timm backbone together with the names of its classes and how images are prepared for it.

    Args:
        name: Any model of timm.
        classes: Class names in the order of the outputs, as data folders are called.
        names: Display name of a class, where that differs from its folder, such as tench for n01440764.
        preprocessing: How an image becomes a tensor.
        kwargs: More arguments of the backbone.
        pretrained: Whether timm downloads trained weights.

    Attributes:
        backbone: The timm model, so that ``forward_significance`` and the like are at hand.

    Raises:
        ValueError: The model is unknown (the nearest is named), or does not take an argument.

    Shape:
        - input: (B, channels, height, width), as ``preprocessing.transform()`` makes it
        - output: (B, number of classes), logits

    Example:
        >>> import sgformer
        >>> from PIL import Image
        >>> preprocessing = Preprocessing(image_size=(64, 64))
        >>> model = Classifier("sgformer_test", classes=["cat", "dog"], preprocessing=preprocessing)
        >>> model.predict(Image.new("RGB", (300, 200))).label in ("cat", "dog")
        True
    """

    task = "classification"
    measure = "probability"
    settings = frozenset({"top_k"})
    in_browsers = True

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        names: Mapping[str, str] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__(name, classes=classes, preprocessing=preprocessing, kwargs=kwargs)
        self.names: dict[str, str] = {}
        self.call_classes(names or {})
        self.backbone = create_backbone(name, self.kwargs, num_classes=len(self.classes), pretrained=pretrained)

    @property
    def has_fixed_size(self) -> bool:
        """Whether the backbone takes images of one size only, as vision transformers with windows often do."""
        return bool(getattr(self.backbone, "pretrained_cfg", {}).get("fixed_input_size"))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of prepared images."""
        return self.backbone(images)

    @overload
    def predict(self, images: ImageLike, *, top_k: int = 5, batch_size: int = 32) -> Prediction: ...
    @overload
    def predict(self, images: Sequence[ImageLike], *, top_k: int = 5, batch_size: int = 32) -> list[Prediction]: ...

    def predict(self, images: Any, *, top_k: int = 5, batch_size: int = 32) -> Any:
        """Classify images.

        Args:
            images: A path, the bytes of a file, a PIL image or an array; or a list of such.
            top_k: How many classes to give, at most as many as there are.
            batch_size: How many images go through the model at once.

        Returns:
            A `Prediction`; for a list, a list of them.

        Raises:
            ImageError: An image cannot be read.
        """
        return self.of_each(
            images,
            lambda images: [
                prediction
                for logits in self._batches(images, batch_size, self.forward)
                for prediction in self._name(logits, top_k)
            ],
        )

    def embed(self, images: Any, *, batch_size: int = 32) -> Tensor:
        """Compute the pooled features of images, the input of the head.

        Args:
            images: As for `predict`.
            batch_size: How many images go through the model at once.

        Returns:
            (c,) in float32; for a list (number of images, c).

        Raises:
            ImageError: An image cannot be read.
        """
        empty = torch.empty(0, cast(Any, self.backbone).num_features)
        return self.of_each(
            images, lambda images: torch.cat([empty, *self._batches(images, batch_size, self.features)]).float()
        )

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, c) of prepared images (B, channels, height, width)."""
        backbone: Any = self.backbone
        return backbone.forward_head(backbone.forward_features(images), pre_logits=True)

    def _batches(
        self, images: Sequence[ImageLike], batch_size: int, compute: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Compute each batch of normalized images; results are on the CPU."""
        transform = self.preprocessing.transform(normalize=False)
        found = []
        for start in range(0, len(images), batch_size):
            read = (
                self.preprocessing.read(image, shorter_side=self.preprocessing.shorter_side)
                for image in images[start : start + batch_size]
            )
            pixels = torch.stack([transform(image) for image in read]).to(self.mean.device)
            found.append(compute(self.normalize(pixels)).cpu())
        return found

    def _name(self, logits: Tensor, top_k: int) -> Iterator[Prediction]:
        scores = logits.float().softmax(-1)
        for values, indices in zip(*scores.topk(min(top_k, len(self.classes))), strict=True):
            numbers = tuple(indices.tolist())
            names = map(self.name_of, numbers)
            yield Prediction(tuple(zip(names, values.tolist(), strict=True)), numbers)

    def call_classes(self, names: Mapping[str, str]) -> None:
        """Set display names of classes; those of others are ignored."""
        self.names = {key: name for key, name in names.items() if key in self.classes}

    def name_of(self, index: int) -> str:
        """Display name of a class."""
        return self.names.get(self.classes[index], self.classes[index])

    @property
    def saved(self) -> nn.Module:
        """The timm model, whose names are its own."""
        return self.backbone

    def describe(self) -> dict[str, Any]:
        """Display names of the classes."""
        return {"names": self.names}

    @classmethod
    def arguments_of(cls, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Names of the classes, and the preprocessing."""
        return {"names": metadata.get("names"), "preprocessing": restored(metadata["preprocessing"])}

    def start_from(self, path: str | Path) -> bool:
        """Take over the weights of another classifier of the same backbone, the head if the classes agree.

        It may be of another image size, or of RGB images where this one has other input channels.

        Returns:
            Whether they agree.

        Raises:
            WeightsError: The file is damaged, or the backbones differ.
        """
        other = Classifier.from_weights(path)
        if other.name != self.name:
            raise weights.WeightsError(
                f"{path} holds a {other.name}, not a {self.name}; "
                f"set --model.name {other.name}, or --model.weights null to start from nothing"
            )
        if hasattr(other.backbone, "set_input_size"):
            # Positions, where a model has them, are resized to the images that this model is made for.
            made_for = getattr(self.backbone, "pretrained_cfg", {}).get("input_size", (3, 224, 224))[-2:]
            other.backbone.set_input_size(img_size=self.kwargs.get("img_size", made_for))  # pyright: ignore
        own = self.backbone.state_dict()
        tensors = adapt_inputs(other.backbone.state_dict(), own)
        if other.classes != self.classes:
            head = getattr(self.backbone, "pretrained_cfg", {}).get("classifier", ())
            heads = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
            tensors |= {name: tensor for name, tensor in own.items() if name.startswith(heads)}
        weights.fill(self.backbone, tensors, source=path)
        return other.classes == self.classes
