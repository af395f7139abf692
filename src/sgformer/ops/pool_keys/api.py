"""`pool_keys`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, never, unless_exporting
from . import exportable, reference

# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.pool, never, unless_exporting),
    "reference": Backend(reference.pool, never, never),
}


def pool_keys(keys: Tensor, budget: int | None, *, backend: str = "auto") -> tuple[Tensor, int]:
    """Averages a grid of key tokens over `t x t` cells, edge cells over what exists, so that at most `budget` remain.

    Args:
        keys: the grid.
        budget: the most tokens that there may be; None for any number.
        backend: `"reference"`, `"exportable"` for exported programs, or `"auto"`.

    Returns:
        The pooled grid, and `t`, the smallest side of a cell that keeps to the budget.

    Shape:
        - keys: `(B, h, w, c)`
        - returns: `(B, ceil(h / t), ceil(w / t), c)`

    Example:
        >>> import torch
        >>> pooled, t = pool_keys(torch.ones(1, 28, 42, 8), 196)
        >>> pooled.shape, t
        (torch.Size([1, 10, 14, 8]), 3)
    """
    return choose("pool_keys", BACKENDS, backend, keys, budget).run(keys, budget)
