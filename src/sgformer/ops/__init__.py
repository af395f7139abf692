"""Pure functions on tensors, on which the backbone stands: no module, no parameter.

An op that can be computed in several ways is a folder: `api.py` is what one calls, `reference.py` is a few lines of
plain PyTorch that define it, and the other files are faster ways to the same numbers; `dispatch.py` chooses.
"""

from .activation import gelu_
from .attention import attention
from .conv2d import conv2d
from .convolved_projection import convolved_projection
from .depthwise_conv import depthwise_conv
from .group_regions import group_regions, spend_regions
from .group_tokens import cut_bands, group_factor, group_tokens
from .key_mean_attention import key_mean_attention
from .linear import linear, weight_gradient
from .map_norm import map_norm
from .merge_tokens import Spending, merge_tokens, spend_tokens
from .pool_keys import pool_keys
from .rank_tokens import rank_tokens
from .recomputed import conv_after, linear_after
from .resize_positions import resize_positions
from .window_attention import window_attention
from .windows import from_windows, to_windows

__all__ = [
    "Spending",
    "attention",
    "conv2d",
    "conv_after",
    "convolved_projection",
    "cut_bands",
    "depthwise_conv",
    "from_windows",
    "gelu_",
    "group_factor",
    "group_regions",
    "group_tokens",
    "key_mean_attention",
    "linear",
    "linear_after",
    "map_norm",
    "merge_tokens",
    "pool_keys",
    "rank_tokens",
    "resize_positions",
    "spend_regions",
    "spend_tokens",
    "to_windows",
    "weight_gradient",
    "window_attention",
]
