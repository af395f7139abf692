"""Backward passes that are written by hand, and have no derivative themselves: they say so."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .dispatch import is_batched, is_transformed


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that raises RuntimeError for a second derivative or a batch of gradients.

    PyTorch asks for them by `create_graph=True` and `is_grads_batched=True`.

    Autocast, which may be on where `backward` is called, has no say in it: the gradient has the dtype of what came out.

    `torch.autograd.function.once_differentiable` leaves such a gradient out without a word where the loss is a plain
    sum, since nothing that it is given requires one.
    """

    @functools.wraps(backward)
    def checked(*args: Any) -> Any:
        # The transforms of `torch.func` always ask for what could be differentiated again.
        if not torch.compiler.is_compiling():
            if torch.is_grad_enabled() and not is_transformed():
                raise _refused("has no second derivative")
            if any(is_batched(x) for x in args if isinstance(x, torch.Tensor)):
                raise _refused("takes no batch of gradients")
        device = next((x.device.type for x in args if isinstance(x, torch.Tensor)), "cpu")
        with torch.no_grad(), _without_autocast(device):
            return backward(*args)

    return checked


def _refused(lacks: str) -> RuntimeError:
    return RuntimeError(f"this fast operation {lacks}; run the forward pass within sgformer.plain()")


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    if torch.compiler.is_compiling() or not torch.amp.is_autocast_available(device):  # `meta` has none
        return nullcontext()
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
