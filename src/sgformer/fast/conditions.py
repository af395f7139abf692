"""Where a fast way may take the place of layers: one predicate over all that may be different about them.

A fast way computes with the weights of layers rather than call them. So a layer has to be of the kind that the model
was built with, with its settings, plain weights and nobody who wants to be told of the call; and nothing may follow the
computation that has to see each step of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn as nn
from timm.layers import DropPath
from torch import Tensor

from ..backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from ..backbone.blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock
from ..backbone.mlp import ConvMlp
from ..backbone.regional import RegionalAttention
from ..backbone.segment import Segment
from ..backbone.stem import Downsample, Stem
from ..ops import dispatch
from ..ops.pieces import pays

try:  # PyTorch has no public name for it
    from torch.nn.modules.module import _has_any_global_hook
except ImportError:
    _has_any_global_hook = None

try:  # nor for what takes the place of weights while `torch.export` follows
    from torch._subclasses import FakeTensor
except ImportError:
    FakeTensor = nn.Parameter
_PLAIN = (nn.Parameter, Tensor, FakeTensor)


def _any_global_hook() -> bool:
    """Whether a hook wants to be called with all modules; without the means to know, as if there were one."""
    return _has_any_global_hook is None or bool(_has_any_global_hook())


def _linear(layer: Any) -> bool:
    return type(layer) is nn.Linear and layer.bias is not None


def is_layer_norm(norm: Any) -> bool:
    """Whether it is a norm of each token, as blocks have."""
    return type(norm) is nn.LayerNorm and norm.bias is not None and len(norm.normalized_shape) == 1


def _map_norm(norm: Any) -> bool:
    return type(norm) is nn.GroupNorm and norm.num_groups == 1 and norm.weight is not None


def _conv(conv: Any) -> bool:
    if type(conv) is not nn.Conv2d or conv.bias is not None or conv.padding_mode != "zeros":
        return False
    (kernel, across), (stride, right) = conv.kernel_size, conv.stride
    return (
        kernel == across
        and stride == right
        and kernel % 2 == 1
        and conv.padding == (kernel // 2,) * 2
        and conv.dilation == (1, 1)
    )


def _depthwise(conv: Any) -> bool:
    return (
        type(conv) is nn.Conv2d
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.padding_mode == "zeros"
        and conv.bias is not None
    )


def _squares(conv: Any) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride
        and (conv.padding, conv.dilation, conv.groups) == ((0, 0), (1, 1), 1)
    )


def _merging(layers: Any) -> bool:
    return type(layers) is nn.ModuleList and all(_linear(f) and f.out_features == 1 for f in layers)


def is_drop_path(layer: Any) -> bool:
    """Whether it is stochastic depth, or nothing in its place."""
    return type(layer) in (DropPath, nn.Identity)


def _mlp(mlp: Any) -> bool:
    return type(mlp) is ConvMlp


_ATTENTION = {"in_proj": _linear, "kv": _linear, "positional": _depthwise, "proj": _linear}
_CHAIN = {f"conv{i}": _conv for i in (1, 2, 3)} | {f"norm{i}": _map_norm for i in (1, 2, 3)}
_BLOCK = {"norm2": is_layer_norm, "mlp": _mlp, "drop_path2": is_drop_path}

# The layers of a segment that fast ways compute with rather than call; a block's other children are called.
LAYERS: dict[type[Segment], dict[str, Callable[[Any], bool]]] = {
    Stem: _CHAIN,
    Downsample: _CHAIN,
    ConvMlp: {"fc1": _linear, "conv": _depthwise, "fc2": _linear},
    HybridScaleAttention: {**_ATTENTION, "coarse": _squares},
    SelfGuidedAttention: {**_ATTENTION, "merge": _merging},
    RegionalAttention: _ATTENTION,
    GlobalAttention: _ATTENTION,
    HybridScaleBlock: _BLOCK,
    SelfGuidedBlock: _BLOCK,
    GlobalBlock: _BLOCK,
}


def layers_objection(segment: Segment) -> str | None:
    """None, or a sentence: a layer was replaced or changed, is hooked, or has weights of a kind of their own."""
    if _any_global_hook():
        return "a hook on all modules wants to be called"
    for name, fits in LAYERS[type(segment)].items():
        layer = getattr(segment, name)
        if reason := layer_objection(name, layer, fits):
            return reason
        if type(layer) is nn.ModuleList:
            for i, part in enumerate(layer):
                if reason := _objection(f"{name}.{i}", part):
                    return reason
        elif type(layer) in LAYERS and (reason := layers_objection(layer)):
            return f"in {name}, {reason}"
    return None


def layer_objection(name: str, layer: Any, fits: Callable[[Any], bool]) -> str | None:
    """None, or a sentence that says why a way cannot compute with this layer."""
    return _objection(name, layer) if fits(layer) else f"{name} was replaced or changed"


def _objection(name: str, layer: nn.Module) -> str | None:
    if not unobserved(layer):
        return f"{name} has a hook, or a forward of its own"
    for weight in layer._parameters.values():
        if weight is not None and type(weight) not in _PLAIN:
            return f"the weights of {name} are a {type(weight).__name__}"
    return None


def unobserved(layer: nn.Module) -> bool:
    """Whether no hook wants to be called with this layer, and it has no other `forward` than its class."""
    return not (
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
        or "plain" in layer.__dict__
    )


def mode_objection() -> str | None:
    """None, or a sentence: the plain way is asked for, or something follows that has to see each step."""
    if dispatch.is_plain():
        return "within sgformer.plain()"
    if dispatch.is_exporting():
        return "torch.export follows"
    if torch.compiler.is_compiling():
        return None
    if torch.jit.is_tracing():
        return "torch.jit.trace follows"
    if dispatch.is_transformed():
        return "within a transform of torch.func"
    if dispatch.is_dual():
        return "torch.autograd.forward_ad computes tangents"
    if dispatch.is_followed():
        return "a mode of torch.overrides follows each function"
    return None


def inference_objection(x: Tensor, size: int) -> str | None:
    """None, or a sentence: this is no inference on a CPU with a large map, of `size` numbers, for which pieces pay."""
    if torch.compiler.is_compiling():  # first: what is asked about sizes would hold the compiler to them
        return "torch.compile follows"
    if torch.is_grad_enabled():
        return "a gradient may be wanted"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if not pays(x, size):
        return "the map is small, or not on a CPU"
    return mode_objection()


def training_objection() -> str | None:
    """None, or a sentence: no gradient is wanted, or `torch.compile` chooses what to compute again."""
    if torch.compiler.is_compiling():
        return "torch.compile follows, which chooses by itself what to compute again"
    if not torch.is_grad_enabled():
        return "no gradient is wanted"
    return mode_objection()


def observed_within(*modules: nn.Module) -> Iterator[nn.Module]:
    """Return those of the modules, and of all that they hold, that a hook wants to be called with."""
    return (part for module in modules for part in module.modules() if not unobserved(part))
