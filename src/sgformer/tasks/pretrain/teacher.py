"""The teacher: a trained model, its weights, and its signals for images."""

import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from ...engine import devices, weights
from ...engine.recipe import Plain
from ..backbones import create_backbone, preprocessing_of
from ..images import Preprocessing, pair
from ..text import read_plain_names
from .model import Signals, signals

PACKAGE = "package:"


@dataclass(kw_only=True)
class TeacherOptions:
    """Options of the teacher.

    Attributes:
        name: Any model of timm.
        kwargs: More arguments of it.
        pretrained: Whether timm downloads its weights.
        weights: Its weights: a file (safetensors, or a PyTorch file of tensors alone), a run folder of this package,
            or package:FOLDER/FILE, a file within an installed Python package. Tensors of other names are taken in
            their order, where number and shapes agree.
        install: What to install where the package is missing, for the error message.
        classes: A file with a class name a line, in the order of its outputs; null: as its weights file says, and of
            1,000 classes those of ImageNet-1k.
        image_size: What it sees, in pixels: one number, or [height, width]; null: what the student sees.
        precision: auto is bfloat16 where there are instructions for it; else float32.
    """

    name: str = "tf_efficientnet_lite0"
    kwargs: dict[str, Plain] = field(default_factory=dict)
    pretrained: bool = False
    weights: str | None = None
    install: str | None = None
    classes: str | None = None
    image_size: int | tuple[int, int] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Teacher:
    """A model in evaluation mode that never changes; no module, so that it is in no checkpoint and no average.

    ``classes`` are names in the order of its outputs, ``names`` what else to call some. The recipe's
    ``trainer.accelerator`` decides the precision. ValueError where the weights are missing or do not fit, with what to
    install or to change.
    """

    def __init__(self, options: TeacherOptions, *, accelerator: str = "auto") -> None:
        if options.pretrained == (options.weights is not None):
            raise ValueError(
                "whose weights does the teacher have? Set either --teacher.weights FILE or --teacher.pretrained true"
            )
        tensors, metadata = _read(options)
        classes = tuple(metadata.get("classes", ()))
        if (name := metadata.get("model", {}).get("name", options.name)) != options.name:
            raise ValueError(
                f"teacher.weights {options.weights} holds a {name}, not a {options.name}; set --teacher.name {name}"
            )
        kwargs = {**metadata.get("model", {}).get("kwargs", {}), **options.kwargs}
        head = {"num_classes": len(classes)} if classes else {}
        self.model: nn.Module = create_backbone(options.name, kwargs, pretrained=options.pretrained, **head)
        if tensors is not None:
            _fill(self.model, tensors, options)
        num_classes = int(getattr(self.model, "num_classes", 0))
        self.classes, self.names = _classes(options, num_classes, classes)
        self.preprocessing = preprocessing_of(options.name, image_size=224)
        if metadata:
            if kwargs.get("in_chans", 3) != 3:
                raise ValueError(f"{options.weights} takes {kwargs['in_chans']} bands; a teacher must take RGB")
            self.preprocessing = Preprocessing(**metadata["preprocessing"])
        self.image_size = None if options.image_size is None else pair(options.image_size)
        half = options.precision == "bfloat16" or (options.precision == "auto" and devices.has_bfloat16(accelerator))
        self.dtype = torch.bfloat16 if half else torch.float32
        self.model.eval().requires_grad_(False)
        self.model.to(dtype=self.dtype, memory_format=torch.channels_last)  # pyright: ignore

    def __deepcopy__(self, memo: Any) -> "Teacher":
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, preprocessing: Preprocessing) -> Signals:
        """Compute the teacher's signals for images (B, 3, height, width) that were prepared as for the student."""
        self.model.to(images.device)
        own = self.preprocessing
        numbers = (preprocessing.mean, preprocessing.std, own.mean, own.std)
        mean, std, own_mean, own_std = (images.new_tensor(values)[:, None, None] for values in numbers)
        images = images * (std / own_std) + (mean - own_mean) / own_std
        images = images.to(self.dtype, memory_format=torch.channels_last)
        with torch.autocast(images.device.type, enabled=False):
            found = signals(self.model, images)
        return Signals(*(tensor.float() for tensor in found))


def _read(options: TeacherOptions) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Tensors, and the metadata of a weights file of this package; of another file none."""
    if options.weights is None:
        return None, {}
    if options.weights.startswith(PACKAGE):
        path = _in_package(options.weights.removeprefix(PACKAGE), options)
    else:
        path = Path(options.weights).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        with safe_open(path, "pt") as file:
            if "sgformer" not in (file.metadata() or {}):
                return load_file(path), {}
    if path.suffix == ".safetensors" or not path.is_file():
        try:
            return weights.read(path)
        except FileNotFoundError as error:
            raise ValueError(f"teacher.weights {options.weights}: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"teacher.weights {path} is damaged, or holds more than tensors; nothing in it was run. "
            "Save its state dict alone, best as safetensors"
        ) from error
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"teacher.weights {path} holds no state dict; save one, best as safetensors")
    return dict(content), {}


def _in_package(place: str, options: TeacherOptions) -> Path:
    package, _, file = place.partition("/")
    install = f"pip install {options.install}" if options.install else f"install {package}"
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"the teacher's weights are in the Python package {package}, which is not installed: {install}; "
            "or set --teacher.weights FILE"
        )
    path = Path(found.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ValueError(f"the Python package {package} has no file {file}: {install}")
    return path


def _fill(model: nn.Module, tensors: dict[str, Tensor], options: TeacherOptions) -> None:
    """Load by name where the names agree, else in order; all shapes must agree."""
    own = model.state_dict()
    if own.keys() != tensors.keys():
        if len(own) != len(tensors):
            raise ValueError(
                f"teacher.weights {options.weights} has {len(tensors)} tensors, {options.name} has {len(own)}; "
                "set --teacher.name to the model that they are of"
            )
        tensors = dict(zip(own, tensors.values(), strict=True))
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"teacher.weights {options.weights} does not fit {options.name}: {name} is {tuple(tensor.shape)} "
                f"there and {tuple(own[name].shape)} here; set --teacher.name to the model that they are of"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"teacher.weights {options.weights}: {name} holds a NaN or an infinity")
    model.load_state_dict(tensors)


def _classes(
    options: TeacherOptions, num_classes: int, known: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    if num_classes < 2:
        raise ValueError(f"the teacher {options.name} has no classes; choose one with a head")
    if options.classes:
        known = tuple(read_plain_names(Path(options.classes).expanduser()))
        if len(known) != num_classes or len(set(known)) != num_classes:
            raise ValueError(
                f"teacher.classes {options.classes} names {len(set(known))} classes, the teacher {options.name} has "
                f"{num_classes}; there must be a line for each output"
            )
    if known:
        return known, {}
    if num_classes != 1000:
        return tuple(f"class{i}" for i in range(num_classes)), {}
    info = ImageNetInfo("imagenet-1k")
    labels = tuple(info.label_names())
    return labels, {label: info.index_to_description(i).split(",")[0] for i, label in enumerate(labels)}
