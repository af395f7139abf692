"""Kernels in C++ for a CPU, compiled on the user's machine if asked to: each an op in one pass."""

from .calls import (
    attention,
    depthwise_conv,
    layer_norm,
    linear,
    map_norm,
    merge_tokens,
    squares,
    window_attention,
)
from .library import objection, use_kernels

HEAD_SIZES = (16, 32)

__all__ = [
    "HEAD_SIZES",
    "attention",
    "depthwise_conv",
    "layer_norm",
    "linear",
    "map_norm",
    "merge_tokens",
    "objection",
    "squares",
    "use_kernels",
    "window_attention",
]
