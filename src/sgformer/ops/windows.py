"""A token map cut into square windows and put together again, for any height and width."""

import torch.nn.functional as F
from torch import Tensor


def to_windows(x: Tensor, *, size: int = 7) -> tuple[Tensor, Tensor | None]:
    """Cuts a map into windows from the top left corner.

    Where the map ends inside a window, the window is filled up with zeros. They are no tokens: `exists` tells them
    from those of the map, so that attention can leave them out.

    Args:
        x: map of tokens.
        size: side of a window in tokens.

    Returns:
        The windows, row by row of the map and of each window, and which of their places hold a token; None in place
        of the latter if all do, that is where `size` divides the height and the width.

    Shape:
        - x: `(B, H, W, c)`
        - windows: `(B * ceil(H / size) * ceil(W / size), size * size, c)`
        - exists: the same without `c`, boolean

    Example:
        >>> import torch
        >>> windows, exists = to_windows(torch.ones(1, 10, 7, 3))
        >>> windows.shape, int(exists[1].sum())
        (torch.Size([2, 49, 3]), 21)
    """
    B, H, W, _ = x.shape
    rows, columns = -(-H // size), -(-W // size)
    pad_bottom, pad_right = rows * size - H, columns * size - W
    if not (pad_bottom or pad_right):
        return _cut(x, size), None
    exists = F.pad(x.new_ones(1, H, W, 1), (0, 0, 0, pad_right, 0, pad_bottom)) > 0
    exists = _cut(exists, size).squeeze(-1)  # (rows * columns, size * size): the same for each image
    return _cut(F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom)), size), exists.repeat(B, 1)


def from_windows(windows: Tensor, height: int, width: int, *, size: int = 7) -> Tensor:
    """Puts windows together to the map from which `to_windows` cut them, without what was filled up.

    Shape:
        - windows: `(B * ceil(height / size) * ceil(width / size), size * size, c)`
        - returns: `(B, height, width, c)`

    Example:
        >>> import torch
        >>> x = torch.randn(2, 10, 9, 3)
        >>> windows, _ = to_windows(x)
        >>> bool((from_windows(windows, 10, 9) == x).all())
        True
    """
    rows, columns = -(-height // size), -(-width // size)
    B, c = len(windows) // (rows * columns), windows.shape[-1]
    x = windows.view(B, rows, columns, size, size, c).transpose(2, 3)
    x = x.reshape(B, rows * size, columns * size, c)  # (B, rows * size, columns * size, c)
    return x[:, :height, :width]


def _cut(x: Tensor, size: int) -> Tensor:
    """Windows of a map whose height and width are multiples of `size`."""
    B, H, W, c = x.shape
    rows, columns = H // size, W // size
    x = x.view(B, rows, size, columns, size, c).transpose(2, 3)
    return x.reshape(B * rows * columns, size * size, c)  # (B * rows * columns, size * size, c)
