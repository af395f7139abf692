"""Keep timm's record of a model's arguments: those that would build it now, and those that its weights had.

`timm.models.save_for_hf` writes them as `model_args`, and `timm.create_model("local-dir:...")` builds by them.
"""

from typing import Any

from torch import nn

try:  # timm 1.0.31 has no public name for them
    from timm.models._input import update_model_args, update_model_input_size
except ImportError:  # timm below 1.0.31 records nothing; its `save_for_hf` takes `model_args`
    update_model_args = update_model_input_size = None


def grid_of(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the token grid of the first stage for an image of `img_size` pixels."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return -(-height // 4), -(-width // 4)


def record_arguments(model: nn.Module, **arguments: Any) -> None:
    """Records arguments that were changed on a built model."""
    if update_model_args is not None:
        update_model_args(model, **arguments)


def record_input_size(model: nn.Module, img_size: int | tuple[int, int]) -> None:
    """Records the (height, width) in pixels that the grid of positions is made for now."""
    if update_model_input_size is not None:
        update_model_input_size(model, img_size)


def stored_grid(model: nn.Module) -> tuple[int, int] | None:
    """The token grid of the positions in the folder or repository that timm is loading; None if it does not say."""
    img_size = getattr(model, "pretrained_model_args", {}).get("img_size")
    return None if img_size is None else grid_of(img_size)
