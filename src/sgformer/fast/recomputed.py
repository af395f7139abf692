"""Training: what is cheap is computed once more for the gradient, and not kept until then."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbone.blocks import Block
from ..backbone.mlp import ConvMlp
from ..ops import convolved_projection, linear
from .conditions import layers_objection, mode_objection, training_objection
from .fused import Instead, project

# Up to so many numbers in the hidden map of an MLP all is kept: there is little to save.
SMALL = 2**20


def why_not_mlp(mlp: ConvMlp, x: Tensor) -> str | None:
    """None, or a sentence."""
    if not torch.is_grad_enabled():
        return "no gradient is wanted"
    return mode_objection() or layers_objection(mlp) or _small(mlp, x)


def _small(mlp: ConvMlp, x: Tensor) -> str | None:
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return None
    return "the map is small" if x[..., 0].numel() * mlp.fc1.out_features <= SMALL else None


def mlp(mlp: ConvMlp, x: Tensor) -> Tensor:
    """The MLP, which keeps its hidden map but not what convolution and GELU make of it."""
    hidden = project(mlp.fc1, x)
    assert mlp.conv.bias is not None
    return convolved_projection(hidden, mlp.conv.weight, mlp.conv.bias, mlp.fc2.weight, mlp.fc2.bias)


def why_not_block(block: Block, *inputs: Tensor) -> str | None:
    """None, or a sentence."""
    return training_objection() or layers_objection(block) or _small(block.mlp, inputs[0])


def block(block: Block, *inputs: Tensor) -> Any:
    """A block whose MLP keeps nothing but its input, norm and all."""
    normed_mlp = functools.partial(_mlp_of_normed, block)
    return Instead(block, norm2=_as_it_is, mlp=normed_mlp).plain(*inputs)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _mlp_of_normed(block: Block, x: Tensor) -> Tensor:
    """`mlp(norm2(x))`."""
    norm, mlp = block.norm2, block.mlp
    prepare = functools.partial(_norm, norm.normalized_shape, norm.eps)
    of_norm = norm.weight, norm.bias
    assert mlp.conv.bias is not None
    rest = mlp.conv.weight, mlp.conv.bias, mlp.fc2.weight, mlp.fc2.bias
    parameters = (*of_norm, mlp.fc1.weight, mlp.fc1.bias)
    return convolved_projection(x, *rest, prepare=functools.partial(_hidden, prepare), parameters=parameters)


def _norm(shape: tuple[int, ...], eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, shape, weight, bias, eps)


def _hidden(norm: Any, x: Tensor, *parameters: Tensor) -> Tensor:
    of_norm, of_projection = parameters[:2], parameters[2:]
    return linear(norm(x, *of_norm), *of_projection)
