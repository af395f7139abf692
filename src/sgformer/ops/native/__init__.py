"""Kernels in C++ for a CPU, compiled on the user's machine if asked to: each an op in one pass."""

from .calls import (
    add_mlp_,
    attention,
    cut_regions,
    depthwise_conv,
    linear,
    map_norm,
    merge_tokens,
    rank_tokens,
    window_attention,
)
from .gradients import (
    attention_gradient,
    dense,
    depthwise_gradient,
    map_norm_gradient,
    merge_gradient_,
    window_gradient,
)
from .library import INNER, objection, run, use_kernels

HEAD_SIZES = (16, 32)

__all__ = [
    "HEAD_SIZES",
    "INNER",
    "add_mlp_",
    "attention",
    "attention_gradient",
    "cut_regions",
    "dense",
    "depthwise_conv",
    "depthwise_gradient",
    "linear",
    "map_norm",
    "map_norm_gradient",
    "merge_gradient_",
    "merge_tokens",
    "objection",
    "rank_tokens",
    "run",
    "use_kernels",
    "window_attention",
    "window_gradient",
]
