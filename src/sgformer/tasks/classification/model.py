"""Trained classifier: a model that takes images and gives names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ...engine import weights
from ...lettering import font_for, written
from ..backbones import adapt_inputs, create_backbone
from ..bands import restored
from ..images import ImageLike, Preprocessing, read_image
from ..kept import Kept


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image: labels and their probabilities.

    Attributes:
        top: (class name, probability), the most probable first.
        numbers: The index of each of these classes.
    """

    top: tuple[tuple[str, float], ...]
    numbers: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    @property
    def score(self) -> float:
        """Its probability."""
        return self.top[0][1]

    def summary(self) -> str:
        """The classes and how probable they are, in a line."""
        return ", ".join(f"{label} {score:.1%}" for label, score in self.top)

    def draw(self, image: ImageLike) -> Image.Image:
        """The image with the summary in a strip below it."""
        image = read_image(image)
        size = max(12, image.width // 40)
        strip = Image.new("RGB", (image.width, image.height + 2 * size), "white")
        strip.paste(image)
        pairs = zip(self.top, self.numbers or range(len(self.top)), strict=True)
        words = ", ".join(f"{written(label, number)} {score:.1%}" for (label, score), number in pairs)
        place = size // 2, image.height + size // 2
        ImageDraw.Draw(strip).text(place, words, "black", font_for([words], size))
        return strip

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        top = [{"label": label, "score": round(score, 6)} for label, score in self.top]
        return {"label": self.label, "score": round(self.score, 6), "top": top}


class Classifier(Kept):
    """A timm backbone together with the names of its classes and how images are prepared for it.

    Args:
        name: Any model of timm.
        classes: Class names in the order of the outputs, as data folders are called.
        names: What to call a class to people, where that differs from its folder, such as tench for n01440764.
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
        super().__init__()
        self.name, self.kwargs = name, dict(kwargs or {})
        self.classes = tuple(classes)
        self.names = {key: name for key, name in (names or {}).items() if key in self.classes}
        self.preprocessing = preprocessing
        self.backbone = create_backbone(
            name, self.kwargs, num_classes=len(self.classes), pretrained=pretrained
        )

    @property
    def has_fixed_size(self) -> bool:
        """Whether the backbone takes images of one size only, as vision transformers with windows often do."""
        return bool(getattr(self.backbone, "pretrained_cfg", {}).get("fixed_input_size"))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of prepared images."""
        return self.backbone(images)

    @overload
    def predict(self, images: ImageLike, *, top_k: int = 5) -> Prediction: ...
    @overload
    def predict(self, images: Sequence[ImageLike], *, top_k: int = 5) -> list[Prediction]: ...

    def predict(self, images: Any, *, top_k: int = 5, batch_size: int = 32) -> Any:
        """Name what is in an image.

        Args:
            images: A path, the bytes of a file, a PIL image or an array; or a list of such.
            top_k: How many classes to give, at most as many as there are.
            batch_size: How many images go through the model at once.

        Returns:
            A `Prediction`; for a list, a list of them.

        Raises:
            ImageError: An image cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self.predict([images], top_k=top_k)[0]
        batches = self._batches(images, batch_size, self.forward)
        return [prediction for logits in batches for prediction in self._name(logits, top_k)]

    def embed(self, images: Any, *, batch_size: int = 32) -> Tensor:
        """Compute the pooled features of images that the head sees, to search, cluster or classify by.

        Args:
            images: As for `predict`.
            batch_size: How many images go through the model at once.

        Returns:
            (c,) in float32; for a list (number of images, c).

        Raises:
            ImageError: An image cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self.embed([images])[0]
        found = [features.float().cpu() for features in self._batches(images, batch_size, self.features)]
        return torch.cat(found) if found else torch.empty(0, getattr(self.backbone, "num_features"))  # noqa: B009

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (B, c) of prepared images (B, channels, height, width)."""
        backbone: Any = self.backbone
        return backbone.forward_head(backbone.forward_features(images), pre_logits=True)

    @torch.inference_mode()
    def _batches(
        self, images: Sequence[ImageLike], batch_size: int, compute: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Compute each batch of prepared images in evaluation mode."""
        transform, shorter_side = self.preprocessing.transform(), self.preprocessing.shorter_side
        read = self.preprocessing.read
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        try:
            return [
                compute(
                    torch.stack(
                        [
                            transform(read(image, shorter_side=shorter_side))
                            for image in images[start : start + batch_size]
                        ]
                    ).to(device)
                )
                for start in range(0, len(images), batch_size)
            ]
        finally:
            self.train(was_training)

    def _name(self, logits: Tensor, top_k: int) -> Iterator[Prediction]:
        scores = logits.float().softmax(-1)
        for values, indices in zip(*scores.topk(min(top_k, len(self.classes))), strict=True):
            numbers = tuple(indices.tolist())
            names = map(self.name_of, numbers)
            yield Prediction(tuple(zip(names, values.tolist(), strict=True)), numbers)

    def name_of(self, index: int) -> str:
        """Return the name of a class for people."""
        return self.names.get(self.classes[index], self.classes[index])

    @property
    def saved(self) -> nn.Module:
        """The timm model, whose names are its own."""
        return self.backbone

    def describe(self) -> dict[str, Any]:
        """Return the names of the classes for people."""
        return {"names": self.names}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """A classifier as a weights file's metadata describe it, with any values."""
        return cls(
            metadata["model"]["name"],
            classes=metadata["classes"],
            names=metadata.get("names"),
            preprocessing=restored(metadata["preprocessing"]),
            kwargs=metadata["model"]["kwargs"],
        )

    def start_from(self, path: str | Path) -> None:
        """Take over the weights of another classifier of the same backbone, the head if the classes agree.

        It may be of another image size, or of RGB images where this one has other input channels.

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
