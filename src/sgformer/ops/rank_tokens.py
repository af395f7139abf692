"""Tokens in the order of their significance."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from . import native
from .dispatch import Backend, choose, never, unless_exporting


def rank_tokens(significance: Tensor, *, backend: str = "auto") -> Tensor:
    """Indices of the tokens from the least to the most significant; ties keep their row-major order. No gradient.

    Args:
        significance: one number per token.
        backend: `"reference"`, `"exportable"` for exported programs, `"native"`, a kernel for a CPU, or `"auto"`.

    Shape:
        - significance: `(B, H, W)` or `(B, N)`
        - returns: `(B, N)`, int64

    Example:
        >>> import torch
        >>> rank_tokens(torch.tensor([[[3.0, 1.0], [2.0, 1.0]]])).tolist()
        [[1, 3, 2, 0]]
    """
    flat = significance.detach().flatten(1)
    return choose("rank_tokens", BACKENDS, backend, flat).run(flat)


def _sorted(significance: Tensor) -> Tensor:
    """The definition."""
    return significance.argsort(dim=1, stable=True)


def _by_topk(significance: Tensor) -> Tensor:
    """Without a stable sort, which few runtimes have: by `topk`, of which every runtime breaks ties in its own way.

    Equal values are numbered as one run, from the least on. Run and place together are a whole number that no two
    tokens share, and by it they are ranked once more.
    """
    N = significance.shape[1]
    values, place = significance.topk(N, dim=1, largest=False, sorted=True)
    later, earlier = torch.arange(1, N, device=place.device), torch.arange(N - 1, device=place.device)
    rises = (values.index_select(1, later) > values.index_select(1, earlier)).to(values.dtype)
    run = F.pad(rises.cumsum(1), (1, 0)).long()  # summed as floats, exact to 2**24: some runtimes sum nothing else
    # Whole numbers, since a runtime may compute what is a float in bfloat16.
    key = (run - N // 2) * N + place
    if statically_known_true(N <= 2**16):  # then 32 bits hold it; some runtimes have no more, or rank no others
        key = key.int()
    order = key.topk(N, dim=1, largest=False, sorted=True).indices
    return place.gather(1, order)


def _why_not_native(significance: Tensor) -> str | None:
    if significance.dtype is not torch.float32:
        return "it ranks numbers in float32"
    if significance.shape[-1] >= 2**31:
        return "there are more tokens than 31 bits count"
    return native.objection((significance,))


# The most preferred first.
BACKENDS = {
    "exportable": Backend(_by_topk, never, unless_exporting),
    # PyTorch's stable sort takes a tenth of a millisecond for 196 tokens.
    "native": Backend(native.rank_tokens, _why_not_native, never),
    "reference": Backend(_sorted, never, never),
}
