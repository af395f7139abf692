"""Self-guided attention that merges by place: summary tokens are squares of the map, small ones where it matters.

This project's own; the paper's merges neighbours in the ranking, wherever they lie in the image.
"""

import torch
from torch import Tensor

from ..ops import Spending, group_regions, spend_regions
from ..ops.group_tokens import cut_bands, group_factor
from .attention import SelfGuidedAttention, convolve, keys_and_values, split_heads

NUM_SIZES = 2  # of cells; with three, attention to the cells strays further from attention to all tokens


class RegionalAttention(SelfGuidedAttention):
    """All tokens attend to squares of the map: small ones where it is significant, large ones elsewhere.

    The list is at most as long as the one of `SelfGuidedAttention`. A summary token is a learned mean of the members
    of a cell, by weights for each size of cells. A cell of `n` tokens counts in the softmax as `n` keys do, so that
    attention to cells of equal tokens is attention to these tokens.

    Arguments and shapes are those of `SelfGuidedAttention`, whose group sizes here say how many keys there are.
    """

    @property
    def num_members(self) -> tuple[int, ...]:
        """Count the members of a cell that each layer of `merge` weighs, the largest cells first."""
        return tuple(4**i for i in reversed(range(NUM_SIZES)))

    def plain(self, x: Tensor, significance: Tensor) -> Tensor:
        """Merges tokens by place and significance into summary tokens, and attends to them."""
        c = x.shape[-1]
        q, branch = self.in_proj(x).split((c, c), -1)
        num_keys = self.num_keys(x.shape[1] * x.shape[2])
        cells, counts = group_regions(x, significance, num_sizes=NUM_SIZES, num_keys=num_keys)
        summary = [f(members.transpose(-2, -1)).squeeze(-1) for f, members in zip(self.merge, cells, strict=True)]
        q = split_heads(q, self.num_heads)
        k, v = keys_and_values(self.kv(torch.cat(summary, 1)), self.num_heads)
        dtype = torch.promote_types(q.dtype, torch.float32)
        bias = counts.to(dtype).log().to(q.dtype)[:, None, None]  # (B, 1, 1, M)
        out = self.attend_with_bias(q, k, v, bias).transpose(1, 2).reshape(x.shape)
        return self.proj(out + convolve(self.positional, branch))

    def attend_with_bias(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Softmax attention by head, with a bias `(B, 1, 1, M)` added to the scores of each key."""
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v

    def num_keys(self, num_tokens: int) -> int:
        """The number of summary tokens that `SelfGuidedAttention` makes of so many tokens."""
        bands = cut_bands(num_tokens, self.group_sizes)
        factor = group_factor(bands, self.token_budget)
        return sum(band.num_groups(factor) for band in bands)

    def spend(self, significance: Tensor) -> Spending:
        """Group size and share of a key of each token, `(B, H, W)` both; for figures, not used in `plain`."""
        num_keys = self.num_keys(significance[0].numel())
        return spend_regions(significance, num_sizes=NUM_SIZES, num_keys=num_keys)
