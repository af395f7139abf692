"""Backbones by timm's names: one head at the end for classification, or a pyramid of maps for dense tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import PretrainedCfg, adapt_input_conv
from torch import Tensor, nn

from ..engine import weights
from ..engine.recipe import Plain, nearest
from .bands import Bands
from .images import Preprocessing, pair

# Arguments of timm.create_model that fetch or unpickle files; a recipe or a weights file must not reach them.
FORBIDDEN = set(
    "pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir "  # noqa: SIM905
    "num_classes features_only out_indices".split()
)


@dataclass(kw_only=True)
class ModelOptions:
    """Options of the backbone.

    Attributes:
        name: Any model of timm, ours among them; see `sgformer list models`.
        drop_path_rate: How often residual branches are dropped in training, at the deepest block; or a rate for each of
            several models by name.
        kwargs: More arguments of the backbone, such as {token_budget: 64}.
        pretrained: Whether timm downloads trained weights, where it has some.
        weights: A run folder or weights file to start from; its head is kept if the classes are the same.
        in_chans: How many bands images have: 3 are red, green and blue, of any file that Pillow reads. Others are read
            as they are from TIFF and NPY files, in classification and segmentation; weights to start from are adapted
            as timm does.
    """

    name: str = "sgformer_s"
    drop_path_rate: float | dict[str, float] = 0.0
    kwargs: dict[str, Plain] = field(default_factory=dict)
    pretrained: bool = False
    weights: str | None = None
    in_chans: int = 3

    def __post_init__(self) -> None:
        if isinstance(rates := self.drop_path_rate, dict):
            if self.name not in rates:
                raise ValueError(
                    f"model.drop_path_rate has a rate for {', '.join(rates)}, none for {self.name}; set "
                    "--model.drop_path_rate 0.1, say"
                )
            self.drop_path_rate = rates[self.name]
        if self.kwargs.get("in_chans", 3) != 3:
            raise ValueError(
                f"model.kwargs.in_chans {self.kwargs['in_chans']}: images are read as RGB, grey ones too; leave it "
                "out, or in classification and segmentation set --model.in_chans"
            )
        if self.in_chans < 1:
            raise ValueError(f"model.in_chans {self.in_chans} must be at least 1")

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for timm beside the name."""
        rate = {"drop_path_rate": self.drop_path_rate} if self.drop_path_rate else {}
        bands = {"in_chans": self.in_chans} if self.in_chans != 3 else {}
        return {**rate, **self.kwargs, **bands}

    def check_rgb(self, task: str) -> None:
        """Raise ValueError where images are of other bands, which a task cannot read."""
        if self.in_chans != 3:
            raise ValueError(f"model.in_chans {self.in_chans}: {task} takes RGB alone; leave it out")


def create_backbone(name: str, kwargs: Mapping[str, Any], *, pretrained: bool = False, **more: Any) -> nn.Module:
    """`timm.create_model` by a registered name only, with errors that name a remedy.

    ``kwargs`` are what a recipe or a weights file asks for, of which those that fetch files are refused; ``more`` are
    what this package asks for, such as ``features_only``.
    """
    check_name(name)
    if forbidden := FORBIDDEN & kwargs.keys():
        raise ValueError(f"model.kwargs must not set {', '.join(sorted(forbidden))}: that is decided elsewhere")
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs, **more)
    except TypeError as error:
        # Python's own words for an argument that a constructor does not have, with the argument named.
        raise ValueError(f"model {name} does not take these model.kwargs: {error}") from error
    except RuntimeError as error:
        if pretrained and "pretrained" in str(error).lower():
            raise ValueError(f"timm has no trained weights for {name}; set --model.pretrained false") from error
        raise
    except OSError as error:
        if not pretrained:
            raise
        raise ValueError(
            f"timm's trained weights for {name} cannot be fetched; check the connection, or bring them here in the "
            "cache of huggingface_hub (HF_HOME)"
        ) from error


def freeze_batch_norms(module: nn.Module) -> None:
    """Freeze the running statistics of a module's batch norms, in training too."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
            norm.eval()


def kwargs_of(options: ModelOptions, *, image_size: tuple[int, int]) -> dict[str, Any]:
    """All arguments of a backbone, the image size included where it takes one (for positions, say)."""
    kwargs = options.arguments
    check_name(options.name)
    sized = {"img_size": list(image_size), **kwargs}
    try:
        with torch.device("meta"):  # no memory, and no time for initial values
            timm.create_model(options.name, **sized)
    except TypeError:  # this model does not care, as most convolutional ones
        return kwargs
    return sized


def check_name(name: str) -> None:
    """Raise ValueError unless timm knows the model, naming those it knows that look most like it."""
    # Names with a scheme, such as hf-hub:, would let a recipe or a weights file fetch what it likes.
    if ":" in name or not timm.is_model(name):
        known = timm.list_models()
        raise ValueError(
            f"unknown model {name!r}{nearest(name, known)} "
            "See them: sgformer list models, or sgformer list models 'resnet*'"
        )


def preprocessing_of(
    name: str, *, image_size: int | tuple[int, int], crop_fraction: float | None = None, in_chans: int = 3
) -> Preprocessing:
    """The preprocessing of a timm model: its own mean, deviation, interpolation and crop.

    With another number of bands than 3, mean and deviation are yet to be measured, see `bands.measured`.
    """
    check_name(name)
    config = timm.get_pretrained_cfg(name) or PretrainedCfg()
    mean, std = (config.mean, config.std) if in_chans == 3 else ((0.0,) * in_chans, (1.0,) * in_chans)
    return (Preprocessing if in_chans == 3 else Bands)(
        image_size=pair(image_size),
        crop_fraction=crop_fraction or config.crop_pct,
        interpolation=config.interpolation,
        mean=mean,
        std=std,
    )


class Pyramid(nn.Module):
    """Feature maps of a timm backbone at given strides, from fine to coarse, for a head to work with.

    ValueError where the model is unknown, does not take an argument, or has no maps at these strides.

    Shape:
        - input: (B, 3, height, width)
        - output: a list of (B, channels, ceil(height / stride), ceil(width / stride))
    """

    def __init__(
        self,
        name: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        strides: tuple[int, ...] = (4, 8, 16, 32),
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_name(name)
        kwargs = dict(kwargs or {})
        self.name, self.kwargs, self.strides = name, kwargs, strides
        try:
            with torch.device("meta"):
                probe = timm.create_model(name, features_only=True)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"model {name} gives no feature maps ({error}); choose one that does, such as sgformer_t or resnet50"
            ) from error
        reductions = list(probe.feature_info.reduction())  # pyright: ignore
        if missing := set(strides) - set(reductions):
            raise ValueError(
                f"model {name} has feature maps at strides {reductions}, none at {sorted(missing)}; "
                "choose a backbone with a pyramid, such as sgformer_t or resnet50"
            )
        indices = [int(probe.feature_info.out_indices[reductions.index(stride)]) for stride in strides]  # pyright: ignore
        # A getter leaves the model as it is, so that its weights keep their names and significance stays at hand.
        with torch.device("meta"):
            whole = hasattr(timm.create_model(name), "forward_intermediates")
        style = {"feature_cls": "getter"} if whole else {}
        self.backbone = create_backbone(
            name, kwargs, pretrained=pretrained, features_only=True, out_indices=indices, **style
        )
        self.channels: list[int] = list(self.backbone.feature_info.channels())  # pyright: ignore

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps, from fine to coarse, channels first."""
        maps = self.backbone(images)
        # Some models of timm, such as swin, keep channels last.
        return [
            map_ if map_.shape[1] == c else map_.permute(0, 3, 1, 2)
            for map_, c in zip(maps, self.channels, strict=True)
        ]

    def start_from(self, path: str | Path) -> None:
        """Take over the backbone of a trained model of this package, a classifier's or another task's.

        WeightsError where the file is damaged, or its backbone is another one.
        """
        tensors, metadata = weights.read(path)
        other = metadata.get("model", {}).get("name")
        if other != self.name:
            raise weights.WeightsError(
                f"{path} holds a {other}, not a {self.name}; set --model.name {other}, or choose other weights"
            )
        own = self.backbone.state_dict()
        start = "model." if any(name.startswith("model.") for name in own) else ""
        # A classifier's names are the model's own; a dense model holds a pyramid like this one.
        inner = "backbone.backbone."
        found = {name.removeprefix(inner): t for name, t in tensors.items() if name.startswith(inner)}
        found = found or {f"{start}{name}": t for name, t in tensors.items()}
        found = {name: t for name, t in found.items() if name in own}
        positions = [name for name in found if name.endswith("pos_embed")]
        for name in positions:
            old = _grid(found[name], metadata["model"].get("kwargs", {}))
            new = _grid(own[name], self.kwargs)
            if old and new and old != new:  # else the check of shapes says what is wrong
                found[name] = resample_abs_pos_embed(found[name], [*new], [*old], num_prefix_tokens=0, antialias=False)
        weights.fill(self.backbone, adapt_inputs(found, own), source=path)


def adapt_inputs(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model of RGB images for one with other input channels, as timm adapts its own: summed or repeated.

    ``own`` is the state dict of that model; whatever else differs stays as it is.
    """
    adapted = dict(tensors)
    for name, tensor in tensors.items():
        wanted = own[name].shape if name in own else tensor.shape
        if tensor.ndim == 4 and tensor.shape[1] == 3 != wanted[1] and tensor.shape[::2] == wanted[::2]:
            adapted[name] = adapt_input_conv(wanted[1], tensor)
    return adapted


def _grid(positions: Tensor, kwargs: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the grid of positions (1, N, c): the one shaped like the images, square ones if not named.

    None if no grid of so many is, such as where one of the positions is that of a class token.
    """
    height, width = pair(kwargs.get("img_size", 1))
    num = positions.shape[1]
    wanted = (num * height / width) ** 0.5
    rows = min((n for n in range(1, num + 1) if num % n == 0), key=lambda n: abs(n - wanted))
    return (rows, num // rows) if abs(rows - wanted) < 0.1 * wanted else None
