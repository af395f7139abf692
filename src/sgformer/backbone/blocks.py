"""The three kinds of blocks, and the stage.

Blocks come in pairs: the first measures significance, the second merges its keys by it. Every pair measures anew, which
is the "evolving reallocation" of the title; a map of significance never leaves its pair.

Between stages a map is `(B, c, H, W)`; inside a stage it is `(B, H, W, c)`, and only the stage turns it.
"""

from typing import Any, Literal

import torch.nn as nn
from timm.layers import DropPath
from timm.models import checkpoint
from torch import Tensor

from .attention import GROUP_SIZES, GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from .mlp import ConvMlp
from .regional import RegionalAttention
from .segment import Segment
from .stem import Downsample

Merging = Literal["ranking", "regions"]
SELF_GUIDED: dict[str, type[SelfGuidedAttention]] = {"ranking": SelfGuidedAttention, "regions": RegionalAttention}


class Block(Segment):
    """Pre-norm transformer block: an attention and an MLP with residuals and stochastic depth.

    Args:
        channels: `c`.
        attention: the attention.
        mlp_ratio: hidden channels of the MLP, divided by `c`.
        drop_path: how often, from 0 to 1, what attention and MLP add is dropped for an image.
    """

    def __init__(
        self, channels: int, attention: nn.Module, *, mlp_ratio: float, drop_path: float, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(channels, eps=1e-6, **dd)
        self.attn = attention
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(channels, eps=1e-6, **dd)
        self.mlp = ConvMlp(channels, int(channels * mlp_ratio), **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Both residuals, `(B, H, W, c)` all: `x + attended`, then the MLP of its norm added to that."""
        x = x + self.drop_path1(attended)
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class HybridScaleBlock(Block):
    """The first block of a pair: `(B, H, W, c)` to the same and the significance `(B, H, W)` that it measured."""

    def plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Block with hybrid-scale attention, which measures significance."""
        attended, significance = self.attn(self.norm1(x))
        return self.add(x, attended), significance


class SelfGuidedBlock(Block):
    """The second block of a pair: `(B, H, W, c)` and the significance `(B, H, W)` to `(B, H, W, c)`."""

    def plain(self, x: Tensor, significance: Tensor) -> Tensor:
        """Block with self-guided attention."""
        return self.add(x, self.attn(self.norm1(x), significance))


class GlobalBlock(Block):
    """A block of the last stage: `(B, H, W, c)` to the same."""

    def plain(self, x: Tensor) -> Tensor:
        """Block with global attention."""
        return self.add(x, self.attn(self.norm1(x)))


class Stage(nn.Module):
    """Downsampling, blocks of one resolution, and a norm.

    Args:
        in_channels: channels of the map that comes in.
        channels: `c` of the blocks.
        depth: number of blocks; with a stride they come in pairs, so it is even.
        num_heads: `a`.
        stride: side in tokens of the square that a coarse key of the pairs stands for, `s`, a key of `GROUP_SIZES`;
            None for global blocks.
        mlp_ratio: hidden channels of the MLP, divided by `c`.
        downsample: whether to halve height and width first.
        drop_path: drop path rate of each block.
        token_budget: the most keys that an attention may use; None for the paper's number.
        merging: how self-guided attention merges tokens, `"ranking"` or `"regions"`.

    Shape:
        - x: `(B, in_channels, H, W)`
        - returns: `(B, c, H, W)`, or half the height and width if downsampled
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        depth: int,
        num_heads: int,
        stride: int | None,
        mlp_ratio: float,
        downsample: bool,
        drop_path: list[float],
        token_budget: int | None = None,
        merging: Merging = "ranking",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if stride is not None and depth % 2:
            raise ValueError(f"depth is {depth}; blocks that measure and use significance come in pairs")
        if stride is not None and stride not in GROUP_SIZES:
            raise ValueError(f"stride is {stride}; choose one of {', '.join(map(str, GROUP_SIZES))}, or None")
        self.grad_checkpointing = False
        self.downsample = Downsample(in_channels, channels, **dd) if downsample else nn.Identity()
        self.blocks = nn.ModuleList()
        options = {"token_budget": token_budget, **dd}
        for i in range(depth):
            kind: type[Block]
            if stride is None:
                kind = GlobalBlock
                attention = GlobalAttention(channels, num_heads, **options)
            elif i % 2 == 0:
                kind = HybridScaleBlock
                attention = HybridScaleAttention(channels, num_heads, stride=stride, **options)
            else:
                kind = SelfGuidedBlock
                sizes = GROUP_SIZES[stride]
                attention = SELF_GUIDED[merging](channels, num_heads, group_sizes=sizes, **options)
            self.blocks.append(kind(channels, attention, mlp_ratio=mlp_ratio, drop_path=drop_path[i], **dd))
        self.norm = nn.LayerNorm(channels, eps=1e-6, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms a map; significance is written and read inside, and stays there."""
        return self.forward_with_significance(x)[0]

    def forward_with_significance(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map that `forward` returns, and the significance `(B, H, W)` of each pair of blocks."""
        maps: list[Tensor] = []
        x = self.downsample(x).permute(0, 2, 3, 1)  # (B, H, W, c)
        for block in self.blocks:
            if isinstance(block, HybridScaleBlock):
                x, significance = self._run(block, x)
                maps.append(significance)
            elif isinstance(block, SelfGuidedBlock):
                x = self._run(block, x, maps[-1])
            else:
                x = self._run(block, x)
        return self.norm(x).permute(0, 3, 1, 2), maps

    def _run(self, block: nn.Module, *args: Tensor) -> Any:
        return checkpoint(block, *args) if self.grad_checkpointing else block(*args)
