"""Blocks by the kernels in C++ (`ops/native`), in prediction on a CPU: one call a block, and few copies.

Maps too large for the cache go in strips first (`strips.py`), which use the same kernels. For `torch.compile` a block
is one operator, which it does not look into.
"""

from typing import Any

import torch
from torch import Tensor

from ..backbone.attention import WINDOW_SIZE, GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from ..backbone.blocks import Block
from ..ops import cut_bands, group_factor, native, rank_tokens
from ..ops.pool_keys import cell_side
from .conditions import is_drop_path, is_layer_norm, layer_objection, layers_objection, mode_objection, unobserved

# Of larger hidden maps a strip at a time is a twentieth slower alone, and a quarter faster beside another program.
MAX_HIDDEN = 2**22


def why_not(block: Block, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence."""
    if torch.is_grad_enabled():
        return "a gradient may be wanted"
    if reason := native.objection((x,), channels=x.shape[-1], products=True, opaque=True) or mode_objection():
        return reason
    if block.training or block.drop_path1.training or block.drop_path2.training:
        return "it is in training mode"
    hidden = getattr(getattr(block.mlp, "fc1", None), "out_features", 0)
    if x.numel() // x.shape[-1] * hidden > MAX_HIDDEN:
        return "the map is large"
    return block_objection(block, x, *significance)


def block_objection(block: Block, x: Tensor, *significance: Tensor) -> str | None:
    """None, or a sentence: the kernels do not compute with the layers and weights of this block."""
    attn: Any = block.attn
    if any(given.shape != x.shape[:3] for given in significance):
        return "the significance is not one number for each token"
    hidden = getattr(getattr(block.mlp, "fc1", None), "out_features", 0)
    if hidden % native.INNER or x.shape[-1] % native.INNER:
        return f"channels of the map and the MLP's hidden ones are no multiples of {native.INNER}"
    if type(attn) not in _KINDS or not unobserved(attn):
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
    return layers_objection(block) or layers_objection(attn) or _weights_objection(block, x.dtype)


def _weights_objection(block: Block, dtype: torch.dtype) -> str | None:
    """None, or a sentence: only now are all layers known to be what they should."""
    for layer in layers(block):
        for weight in (layer.weight, layer.bias):  # which may be no parameters
            if weight is None or weight.dtype is not dtype:
                return f"a weight is missing, or not in {str(dtype).removeprefix('torch.')}"
            if not (weight.is_cpu and weight.is_contiguous()):
                return "a weight is not on the CPU, or not contiguous"
    return None


def layers(block: Any) -> list[Any]:
    """The layers of a block, in the order in which the kernel takes their weights."""
    attn, mlp = block.attn, block.mlp
    layers = [block.norm1, attn.in_proj, attn.kv, attn.positional, attn.proj, block.norm2, mlp.fc1, mlp.conv, mlp.fc2]
    if isinstance(attn, HybridScaleAttention):
        layers += [attn.coarse, attn.coarse_norm]
    return [*layers, *getattr(attn, "merge", ())]


def block(block: Any, x: Tensor, *significance: Tensor) -> Any:
    """A block."""
    attn = block.attn
    eps = [block.norm1.eps, block.norm2.eps]
    weights = [weight for layer in layers(block) for weight in (layer.weight, layer.bias)]
    compute = _operator if torch.compiler.is_compiling() else _compute
    if isinstance(attn, HybridScaleAttention):
        numbers, eps = [attn.num_heads_half, attn.stride], [*eps, attn.coarse_norm.eps]
    else:
        numbers = [attn.num_heads, *getattr(attn, "group_sizes", ())]
    kind, given = _KINDS[type(attn)], significance[0] if significance else None
    y, measured = compute(kind, x.contiguous(), given, weights, numbers, attn.token_budget, eps)
    return (y, measured) if isinstance(attn, HybridScaleAttention) else y


def _compute(
    kind: str,
    x: Tensor,
    significance: Tensor | None,
    weights: list[Tensor],
    numbers: list[int],
    budget: int | None,
    eps: list[float],
) -> tuple[Tensor, Tensor]:
    """A block, and the significance that it measured, or nothing.

    The map is contiguous; `significance` is what a self-guided block ranks tokens by. `weights` are those and biases of
    each layer, `numbers` how many heads attend to keys, and stride or group sizes, `budget` the most keys.
    """
    B, H, W, c = x.shape
    out = torch.empty_like(x)
    heads, *others = numbers
    addresses = [weight.data_ptr() for weight in weights]
    measured = torch.empty((B, H, W) if kind == "hybrid_scale" else 0, dtype=torch.float32)
    ranking = None  # is kept until the kernel has read it
    if kind == "hybrid_scale":
        (stride,) = others
        own = [measured.data_ptr(), heads, WINDOW_SIZE, stride, cell_side(-(-H // stride), -(-W // stride), budget)]
        d = c // (2 * heads)
    elif significance is None:
        own, d = [heads, cell_side(H, W, budget)], c // heads
    else:
        ranking, d = rank_tokens(significance).contiguous(), c // heads
        bands = cut_bands(H * W, tuple(others))
        factor = group_factor(bands, budget)
        of_layers, of_merging = addresses[: -2 * len(bands)], addresses[-2 * len(bands) :]
        own = [heads, ranking.data_ptr(), factor, sum(band.num_groups(factor) for band in bands), len(bands)]
        for i, band in enumerate(bands):
            own += [*of_merging[2 * i : 2 * i + 2], *band]
        addresses = of_layers
    hidden = weights[12].shape[0]
    head = [x.data_ptr(), out.data_ptr(), B, H, W, c, hidden, torch.get_num_threads()]
    native.run(f"{kind}_{d}", x.dtype, [*head, *addresses, *own], *eps)
    return out, measured


def _fake(kind, x, significance, weights, numbers, budget, eps):
    measured = x.new_empty(x.shape[:3] if kind == "hybrid_scale" else 0, dtype=torch.float32)
    return torch.empty_like(x), measured


_operator = torch.library.custom_op("sgformer::block", _compute, mutates_args=())
_operator.register_fake(_fake)

_KINDS: dict[type, str] = {
    HybridScaleAttention: "hybrid_scale",
    SelfGuidedAttention: "self_guided",
    GlobalAttention: "global",
}
