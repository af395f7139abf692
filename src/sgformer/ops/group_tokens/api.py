"""`group_tokens`: what one calls. The definition is in `reference.py`."""

from torch import Tensor

from ..dispatch import Backend, choose, is_exporting, never, unless_exporting
from . import exportable, reference

# The most preferred first.
BACKENDS = {
    "exportable": Backend(exportable.group, never, unless_exporting),
    "reference": Backend(reference.group, never, never),
}


def group_tokens(
    x: Tensor,
    ranking: Tensor,
    group_sizes: tuple[int, ...],
    *,
    token_budget: int | None = None,
    backend: str = "auto",
) -> list[Tensor]:
    """The members of each group of tokens that is merged into one, band by band.

    The ranking is cut into as many bands as there are group sizes (see `cut_bands`), and each band into groups of `r`
    consecutive tokens. The last group of a band, where it runs past the band's end, goes on from the band's own start.

    Args:
        x: tokens.
        ranking: indices of the tokens from the least to the most significant, as from `rank_tokens`.
        group_sizes: `r` of each band, from the least to the most significant.
        token_budget: the most groups that there may be, at least one a band. Where there would be more, each group
            holds `t` times as many tokens, and a member is the mean of `t` consecutive ones.
        backend: `"reference"`, `"exportable"` for exported programs, or `"auto"`.

    Raises:
        ValueError: if the budget is too small for one group a band, or shapes do not fit.

    Shape:
        - x: `(B, N, c)`
        - ranking: `(B, N)`, int64
        - returns: `(B, groups, r, c)` for each band; a band without tokens has no groups

    Example:
        >>> import torch
        >>> members = group_tokens(torch.arange(4.0).view(1, 4, 1), torch.tensor([[3, 1, 0, 2]]), (2, 1))
        >>> [band.flatten().tolist() for band in members]
        [[3.0, 1.0], [0.0, 2.0]]

    Source:
        The paper's "self-guided attention".
    """
    check(x, ranking, len(group_sizes), token_budget)
    args = (x, ranking, group_sizes, token_budget)
    return choose("group_tokens", BACKENDS, backend, *args).run(*args)


def check(x: Tensor, ranking: Tensor, num_bands: int, token_budget: int | None) -> None:
    """Raises ValueError where tokens, ranking and budget do not fit."""
    if not is_exporting() and (x.ndim != 3 or ranking.shape != x.shape[:2]):
        raise ValueError(
            f"tokens are (B, N, c) and their ranking (B, N), got {tuple(x.shape)} and {tuple(ranking.shape)}"
        )
    if token_budget is not None and token_budget < num_bands:
        raise ValueError(f"token_budget is {token_budget}; it must be at least {num_bands}, one token a band")
