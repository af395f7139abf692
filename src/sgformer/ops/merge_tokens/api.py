"""`merge_tokens`: what one calls. The definition is in `reference.py`."""

from collections.abc import Sequence

from torch import Tensor

from ..dispatch import Backend, choose, never
from ..group_tokens import check, cut_bands, group_factor
from . import gathered, native, reference, triton

# The most preferred first.
BACKENDS = {
    "native": Backend(native.merge, native.why_not, never),
    "triton": Backend(triton.merge, triton.why_not, triton.why_slow),
    "gathered": Backend(gathered.merge, never, never),
    "reference": Backend(reference.merge, never, never),
}


def merge_tokens(
    x: Tensor,
    ranking: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    token_budget: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Merges tokens to a short list of summary tokens, the finer the more significant they are.

    The ranking is cut into as many bands as there are weights (see `cut_bands`), and each band into groups of `r`
    consecutive tokens, `r` being the length of the band's weight. A summary token is the weighted sum of the members
    of a group plus a bias, the same for every channel. The last group of a band, where it runs past the band's end,
    goes on from the band's own start.

    Args:
        x: tokens.
        ranking: indices of the tokens from the least to the most significant, as from `rank_tokens`.
        weights: for each band, from the least to the most significant, what its `r` members count.
        biases: for each band, what is added.
        token_budget: the most summary tokens that there may be, at least one a band. Where the list would be longer,
            each group holds `t` times as many tokens, and a member is the mean of `t` consecutive ones.
        backend: `"reference"`, `"gathered"` (one gather for all bands), `"triton"` (kernels for GPUs),
            `"native"` (a kernel for a CPU, where there is one), or `"auto"`.

    Returns:
        The summary tokens, band after band from the least significant.

    Raises:
        ValueError: if the budget is too small for one summary token a band, or shapes do not fit.

    Shape:
        - x: `(B, N, c)`
        - ranking: `(B, N)`, int64
        - weights: `(r,)` each
        - biases: `(1,)` each
        - returns: `(B, M, c)`

    Example:
        >>> import torch
        >>> x = torch.arange(4.0).view(1, 4, 1)
        >>> mean_of_two, as_it_is = torch.tensor([0.5, 0.5]), torch.tensor([1.0])
        >>> ranking = torch.tensor([[0, 1, 2, 3]])
        >>> summary = merge_tokens(x, ranking, [mean_of_two, as_it_is], [torch.zeros(1)] * 2)
        >>> summary.flatten().tolist()
        [0.5, 2.0, 3.0]

    Source:
        The paper's "self-guided attention".
    """
    check(x, ranking, len(weights), token_budget)
    if len(weights) != len(biases):
        raise ValueError(f"got {len(weights)} weights and {len(biases)} biases; each band needs one of both")
    bands = cut_bands(x.shape[1], tuple(weight.numel() for weight in weights))
    args = (x, ranking, reference.Merging(weights, biases, bands, group_factor(bands, token_budget)))
    return choose("merge_tokens", BACKENDS, backend, *args).run(*args)
