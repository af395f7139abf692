"""Blocks by the kernels in C++ (`ops/native`), in prediction on a CPU: a dozen calls a block, and few copies.

Maps too large for the cache go in strips first (`strips.py`), which use the same kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from ..backbone.attention import (
    WINDOW_SIZE,
    GlobalAttention,
    HybridScaleAttention,
    SelfGuidedAttention,
    keys_and_values,
    split_heads,
)
from ..backbone.blocks import Block
from ..ops import merge_tokens, native, pool_keys, rank_tokens
from .conditions import (
    is_drop_path,
    is_layer_norm,
    layer_objection,
    layers_objection,
    mode_objection,
    unobserved,
)

# Of larger hidden maps a strip at a time is as fast, and takes less memory: 16 MB.
MAX_HIDDEN = 2**22


def why_not(block: Block, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence."""
    attn: Any = block.attn
    if x.dtype is not torch.float32 or torch.is_grad_enabled():
        return "it computes in float32, for no gradient"
    if reason := native.objection((x,), channels=x.shape[-1]) or mode_objection():
        return reason
    if block.training or block.drop_path1.training or block.drop_path2.training:
        return "it is in training mode"
    hidden = getattr(getattr(block.mlp, "fc1", None), "out_features", 0)
    if hidden % 16 or x.numel() // x.shape[-1] * hidden > MAX_HIDDEN:
        return "the map is large, or the MLP's hidden channels are no multiple of 16"
    if type(attn) not in _ATTENTIONS or not unobserved(attn):
        return "its attention was replaced, or is hooked"
    heads = 2 * attn.num_heads_half if isinstance(attn, HybridScaleAttention) else attn.num_heads
    if x.shape[-1] // heads not in native.HEAD_SIZES:
        return f"heads have {x.shape[-1] // heads} channels; it takes {native.HEAD_SIZES}"
    others = {"norm1": (block.norm1, is_layer_norm), "drop_path1": (block.drop_path1, is_drop_path)}
    if isinstance(attn, HybridScaleAttention):
        others["coarse_norm"] = attn.coarse_norm, is_layer_norm
    for name, (layer, fits) in others.items():
        if reason := layer_objection(name, layer, fits):
            return reason
    return layers_objection(block) or layers_objection(attn) or _weights_objection(block, attn)


def _weights_objection(block: Block, attn: Any) -> str | None:
    """None, or a sentence: only now are all layers known to be what they should."""
    layers = [block.norm1, block.norm2, block.mlp.fc1, block.mlp.conv, block.mlp.fc2, attn.in_proj, attn.kv]
    layers += [attn.positional, attn.proj, *getattr(attn, "merge", ())]
    layers += [attn.coarse, attn.coarse_norm] if isinstance(attn, HybridScaleAttention) else []
    for layer in layers:
        for weight in layer._parameters.values():
            if weight is None or weight.dtype is not torch.float32:
                return "a weight is missing, or not in float32"
            if not (weight.is_cpu and weight.is_contiguous()):
                return "a weight is not on the CPU, or not contiguous"
    return None


def block(block: Block, x: Tensor, *significance: Tensor) -> Any:
    """A block."""
    x = x.contiguous()
    attn: Any = block.attn
    x, *measured = _ATTENTIONS[type(attn)](attn, _norm(block.norm1, x), x, *significance)
    mlp: Any = block.mlp
    hidden = native.linear(_norm(block.norm2, x), mlp.fc1.weight, mlp.fc1.bias)
    hidden = native.depthwise_conv(hidden, mlp.conv.weight, mlp.conv.bias, hidden, gelu=True)
    x = native.linear(hidden, mlp.fc2.weight, mlp.fc2.bias, x)
    return (x, *measured) if measured else x


def _norm(norm: nn.LayerNorm, x: Tensor, *, gelu: bool = False) -> Tensor:
    return native.layer_norm(x, norm.weight, norm.bias, norm.eps, gelu=gelu)


def _project(layer: nn.Linear, x: Tensor, more: Tensor | None = None) -> Tensor:
    return native.linear(x, layer.weight, layer.bias, more)


def _finish(attn: Any, branch: Tensor, out: Tensor, x: Tensor) -> Tensor:
    """The map that attention is added to, with what it found and its positional branch, projected."""
    y = native.depthwise_conv(branch, attn.positional.weight, attn.positional.bias, out, gelu=False)
    return _project(attn.proj, y, x)


def _hybrid_scale(attn: HybridScaleAttention, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    B, _, _, c = x.shape
    q, qkv, branch = _project(attn.in_proj, y).split((c // 2, 3 * c // 2, c), -1)
    squares: Any = attn.coarse
    coarse = native.linear(native.squares(y, attn.stride), squares.weight.flatten(1), squares.bias)
    coarse, t = pool_keys(_norm(attn.coarse_norm, coarse, gelu=True), attn.token_budget)
    h, w = coarse.shape[1:3]
    kv = _project(attn.kv, coarse.contiguous())
    out = torch.empty_like(x)
    key_mean = x.new_empty((B, h, w))
    a = attn.num_heads_half
    q, found = split_heads(q, a), split_heads(out[..., : c // 2], a)
    native.attention(q, *keys_and_values(kv, a), q.shape[-1] ** -0.5, found, key_mean)
    significance = native.window_attention(qkv, a, WINDOW_SIZE, out[..., c // 2 :], key_mean, attn.stride * t)
    return _finish(attn, branch, out, x), significance


def _self_guided(attn: SelfGuidedAttention, y: Tensor, x: Tensor, significance: Tensor) -> tuple[Tensor]:
    weights: list[Any] = [f.weight.squeeze(0) for f in attn.merge]  # pyright: ignore
    biases: list[Any] = [f.bias for f in attn.merge]
    budget = attn.token_budget
    summary = merge_tokens(y.flatten(1, 2), rank_tokens(significance), weights, biases, token_budget=budget)
    return _attend(attn, y, x, summary)


def _global(attn: GlobalAttention, y: Tensor, x: Tensor) -> tuple[Tensor]:
    return _attend(attn, y, x, pool_keys(y, attn.token_budget)[0].contiguous())


def _attend(attn: SelfGuidedAttention | GlobalAttention, y: Tensor, x: Tensor, keys: Tensor) -> tuple[Tensor]:
    q, branch = _project(attn.in_proj, y).chunk(2, -1)
    out = torch.empty_like(x)
    a = attn.num_heads
    q, found = split_heads(q, a), split_heads(out, a)
    native.attention(q, *keys_and_values(_project(attn.kv, keys), a), q.shape[-1] ** -0.5, found)
    return (_finish(attn, branch, out, x),)


_ATTENTIONS: dict[type, Any] = {
    HybridScaleAttention: _hybrid_scale,
    SelfGuidedAttention: _self_guided,
    GlobalAttention: _global,
}
