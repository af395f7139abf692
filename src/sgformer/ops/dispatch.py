"""The choice among the ways to compute an op: each backend says for itself when it cannot serve, and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

_plainly = False


@contextmanager
def plain() -> Iterator[None]:
    """Inside this context everything is computed as it is defined, in plain PyTorch.

    For debugging, for second derivatives, and to compare with. Segments of a model take no fast way, and ops take their
    `reference`, unless another backend is named. It holds for all threads of the process.

    Example:
        >>> import timm, torch, sgformer
        >>> model = timm.create_model("sgformer_test", num_classes=3)
        >>> x = torch.randn(1, 3, 32, 32, requires_grad=True)
        >>> with sgformer.plain():
        ...     (of_x,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        >>> of_x.square().sum().backward()
    """
    global _plainly
    before, _plainly = _plainly, True
    try:
        yield
    finally:
        _plainly = before


def is_plain() -> bool:
    """Whether this runs within `plain()`."""
    return _plainly


class Backend(NamedTuple):
    """A way to compute an op, and the predicate that tells when it applies."""

    run: Callable[..., Any]  # all backends of an op take the same arguments and return the same numbers
    why_not: Callable[..., str | None]  # takes the arguments and answers None ("I can") or says why not
    why_slow: Callable[..., str | None]  # likewise where it could, but another backend serves better


def never(*args: Any) -> None:
    """No objection: the `why_not` or `why_slow` of a backend that takes everything."""


def choose(op: str, backends: dict[str, Backend], name: str, *args: Any) -> Backend:
    """The backend to run: the one named or, for `"auto"`, the first in the dictionary without an objection.

    The last one must serve everything, and so must `reference`.

    Raises:
        ValueError: if the name is unknown, or if the named backend cannot serve these arguments.
    """
    if name == "auto":
        if _plainly:
            return backends["reference"]
        for backend in backends.values():
            if backend.why_not(*args) is None and backend.why_slow(*args) is None:
                return backend
        return list(backends.values())[-1]
    if name not in backends:
        raise ValueError(f"{op} has no backend {name!r}; choose one of {', '.join(['auto', *backends])}")
    if reason := backends[name].why_not(*args):
        raise ValueError(f"{op} cannot run on backend {name!r} here: {reason}; backend 'auto' finds one that can")
    return backends[name]


def explain(backends: dict[str, Backend], *args: Any) -> dict[str, str]:
    """Ask each backend about these arguments: `"yes"`, or the sentence why not.

    `"auto"` takes the first that says yes.
    """
    return {name: b.why_not(*args) or b.why_slow(*args) or "yes" for name, b in backends.items()}


_exporting = torch.compiler.is_exporting


def is_exporting() -> bool:
    """Whether `torch.export` follows this, alone or for `torch.onnx`: sizes may be symbols then."""
    return _exporting()


def unless_exporting(*args: Any) -> str | None:
    """The `why_slow` of a backend that is for exported programs, in which sizes may be unknown."""
    return None if is_exporting() else "it is for torch.export, where sizes may be unknown"


def is_watched() -> bool:
    """Whether a mode of PyTorch's, or its profiler, sees the operations of this thread."""
    stacks = (getattr(torch._C, f"_len_torch_{kind}_stack", None) for kind in ("dispatch", "function"))
    profiled = getattr(getattr(torch._C, "_autograd", None), "_profiler_enabled", None)
    return any(tells is None or tells() for tells in (*stacks, profiled))


# PyTorch has no public names for these.
_function_modes = getattr(torch.overrides, "_get_current_function_mode_stack", list)
_transform = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", None)
_batched = getattr(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor", None)


def is_transformed() -> bool:
    """Whether this runs within a transform of `torch.func`, such as `vmap`; yes, where PyTorch does not tell."""
    return _transform is None or _transform() is not None


def is_batched(x: torch.Tensor) -> bool:
    """Whether it stands for many gradients, as `torch.autograd.grad(..., is_grads_batched=True)` passes them."""
    return _batched is not None and _batched(x)


def is_dual() -> bool:
    """Whether tangents are computed along with all values, by `torch.autograd.forward_ad`."""
    return getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


def is_followed() -> bool:
    """Whether a mode of `torch.overrides` follows each function, as tracers of quantisers do; no default device."""
    return any(type(mode).__name__ != "DeviceContext" for mode in _function_modes())
