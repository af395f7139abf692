"""`rank_tokens` for `torch.export`: without a stable sort, which few runtimes have."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def rank(significance: Tensor) -> Tensor:
    """Rank as `reference.rank` does, by `topk`, of which every runtime breaks ties in its own way.

    Equal values are numbered as one run, from the least on. Run and place together are a whole number that no two
    tokens share, and by it they are ranked once more.

    Shape:
        - significance: `(B, N)`
        - returns: `(B, N)`, int64
    """
    flat = significance
    N = flat.shape[1]
    values, place = flat.topk(N, dim=1, largest=False, sorted=True)
    later, earlier = torch.arange(1, N, device=flat.device), torch.arange(N - 1, device=flat.device)
    rises = (values.index_select(1, later) > values.index_select(1, earlier)).to(values.dtype)
    run = F.pad(rises.cumsum(1), (1, 0)).long()  # summed as floats, exact to 2**24: some runtimes sum nothing else
    key = (run - N // 2) * N + place
    if statically_known_true(N <= 2**16):  # then 32 bits hold it; some runtimes have no more, or rank no others
        key = key.int()
    order = key.topk(N, dim=1, largest=False, sorted=True).indices
    return place.gather(1, order)
