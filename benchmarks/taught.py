"""A significance map that gradients teach: an arm of `guidance.py`, tried there and not part of the package.

The measured map carries no gradient, so a loss cannot say where keys are worth more. Here a linear gate on the tokens
multiplies it, and tokens count in their summary token as the gate says, which lets the gradient reach the gate. It
begins at one: the first step is that of the measured map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgformer.backbone.attention import SelfGuidedAttention, attend, convolve
from sgformer.ops import rank_tokens


class TaughtAttention(SelfGuidedAttention):
    """`SelfGuidedAttention` whose significance is the measured one times a learned gate."""

    def __init__(self, channels: int, num_heads: int, **kwargs) -> None:
        super().__init__(channels, num_heads, **kwargs)
        self.gate = nn.Linear(channels, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def plain(self, x: Tensor, significance: Tensor) -> Tensor:
        """Attends to summary tokens, in which each member counts by its gate."""
        c, num_tokens = x.shape[-1], x.shape[1] * x.shape[2]
        gate = self.gate(x).flatten(1).softmax(1).view(significance.shape) * num_tokens  # 1 on average
        ranking = rank_tokens(significance * gate.detach())
        q, branch = self.in_proj(x).split((c, c), -1)
        summary = self.summary_tokens((x * gate.unsqueeze(-1)).flatten(1, 2), ranking)
        out = attend(q, self.kv(summary), self.num_heads)
        return self.proj(out + convolve(self.positional, branch))


def teach(model: nn.Module) -> None:
    """Puts a `TaughtAttention` with the same weights in place of each `SelfGuidedAttention` of a model."""
    for name, module in list(model.named_modules()):
        if type(module) is SelfGuidedAttention:
            with torch.random.fork_rng(devices=[]):  # what is drawn after it stays as it is without it
                taught = TaughtAttention(
                    module.proj.in_features,
                    module.num_heads,
                    group_sizes=module.group_sizes,
                    token_budget=module.token_budget,
                )
            taught.load_state_dict(module.state_dict(), strict=False)
            model.set_submodule(name, taught)
