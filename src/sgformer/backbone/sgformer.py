"""SG-Former's entries in timm's registry."""

import warnings
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .model import MIN_SIZE, SGFormer
from .official import checkpoint_filter_fn

# Arguments that older weights files and recipes may hold, with the value that changes nothing, and what to do instead.
RETIRED = {
    "guidance": ("significance", "hold another order from outside with `sgformer.hold_significance`"),
    "guidance_seed": (None, ""),
    "weight_init": ("released", "set the weights of `merge` after building the model"),
}


def _without_retired(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments without those that the model no longer has; warns of each that would have changed it."""
    for name, (harmless, remedy) in RETIRED.items():
        value = kwargs.get(name, harmless)
        if harmless is not None and value != harmless:
            warnings.warn(
                f"{name}={value!r} is ignored, SGFormer has no such argument any more: {remedy}",
                FutureWarning,
                stacklevel=2,
            )
    return {name: value for name, value in kwargs.items() if name not in RETIRED}


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> SGFormer:
    kwargs = _without_retired(kwargs)
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        SGFormer,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        **kwargs,
    )


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, MIN_SIZE, MIN_SIZE),
        "fixed_input_size": False,
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "sgformer_test": _cfg(),
        # What ships; trained with smaller images, it is best at about 144 pixels.
        "sgformer_t": _cfg(file=str(Path(__file__).parents[1] / "weights" / "sgformer_t.safetensors")),
        "sgformer_s": _cfg(),
        "sgformer_m": _cfg(),
        "sgformer_b": _cfg(),
    }
)


@register_model
def sgformer_test(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """For tests: every kind of block, in under a million parameters."""
    args = {"depths": (2, 2, 2, 1), "channels": (16, 32, 48, 64), "num_heads": (2, 2, 2, 4), "mlp_ratio": 2.0}
    return _create("sgformer_test", pretrained, **{**args, **kwargs})


@register_model
def sgformer_t(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """For laptops; this project's own.

    Half of S's width where maps are large and memory traffic rules, three quarters where matrix products count; most
    of the depth in stage 3, as in S, where tokens are many enough to choose among and few enough to be cheap.
    """
    args = {"depths": (2, 2, 6, 1), "channels": (32, 64, 192, 384), "num_heads": (2, 2, 6, 12)}
    return _create("sgformer_t", pretrained, **{**args, **kwargs})


@register_model
def sgformer_s(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's small model: 22.5M parameters, 4.8 GMACs at 224."""
    args = {"depths": (2, 4, 16, 1), "channels": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16)}
    return _create("sgformer_s", pretrained, **{**args, **kwargs})


@register_model
def sgformer_m(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's medium model: 38.7M parameters, 7.4 GMACs at 224."""
    args = {"depths": (2, 6, 28, 2), "channels": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16)}
    return _create("sgformer_m", pretrained, **{**args, **kwargs})


@register_model
def sgformer_b(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's base model: 78.0M parameters, 15.5 GMACs at 224."""
    args = {"depths": (4, 6, 24, 2), "channels": (96, 192, 384, 768), "num_heads": (4, 6, 12, 24)}
    return _create("sgformer_b", pretrained, **{**args, **kwargs})
