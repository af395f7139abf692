"""The definition of `pool_keys` in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor


def pool(keys: Tensor, budget: int | None) -> tuple[Tensor, int]:
    """The pooled grid, and the side of its cells; see `pool_keys`.

    Shape:
        - keys: `(B, h, w, c)`
        - returns: `(B, ceil(h / t), ceil(w / t), c)`, and `t`
    """
    t = cell_side(keys.shape[1], keys.shape[2], budget)
    if t == 1:
        return keys, 1
    pooled = F.avg_pool2d(keys.permute(0, 3, 1, 2), t, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1), t


def cell_side(h: int, w: int, budget: int | None) -> int:
    """The smallest side of the cells of a grid `(h, w)` such that there are at most `budget`."""
    t = 1
    while budget is not None and -(-h // t) * -(-w // t) > budget:
        t += 1
    return t
