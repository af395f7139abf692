"""`resize_positions`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, never
from . import products, reference

# The most preferred first.
BACKENDS = {
    "products": Backend(products.resize, never, products.why_slow),
    "reference": Backend(reference.resize, never, never),
}


def resize_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], *, backend: str = "auto") -> Tensor:
    """Resizes a grid of positions bicubically, in float32 or better; untouched where the size is the same.

    Args:
        pos_embed: positions, row-major.
        old: (height, width) of the grid that they are of.
        new: (height, width) of the grid that is wanted.
        backend: `"reference"`, `"products"` for a CPU and for exported programs, or `"auto"`.

    Shape:
        - pos_embed: `(1, N, c)`
        - returns: `(1, N', c)`

    Example:
        >>> import torch
        >>> resize_positions(torch.randn(1, 56 * 56, 8), (56, 56), (24, 32)).shape
        torch.Size([1, 768, 8])
    """
    args = (pos_embed, old, new)
    return choose("resize_positions", BACKENDS, backend, *args).run(*args)
