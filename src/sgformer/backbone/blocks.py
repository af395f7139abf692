"""What SG-Former is built of: stem, downsampling, the three kinds of blocks, and the stage.

Between stages a map is `(B, c, H, W)`; inside a stage it is `(B, H, W, c)`, and only the stage turns it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import checkpoint
from torch import Tensor

from ..ops import conv2d, conv_after, map_norm
from ..ops.dispatch import is_transformed
from ..ops.pieces import few_pictures
from . import conv_strips, strips
from .attention import GROUP_SIZES, GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from .mlp import ConvMlp


class MapNorm(nn.GroupNorm):
    """A norm over all channels and places of a map, with GELU in the same go where asked for.

    Args:
        channels: `c`.

    Shape:
        - x, returns: `(B, c, H, W)`, in channels-last order
    """

    def __init__(self, channels: int, *, device=None, dtype=None) -> None:
        super().__init__(1, channels, eps=1e-5, device=device, dtype=dtype)

    def forward(self, input: Tensor, *, gelu: bool = False) -> Tensor:
        """Normalises."""
        x = input.permute(0, 2, 3, 1)
        return map_norm(x, self.weight, self.bias, eps=self.eps, gelu=gelu).permute(0, 3, 1, 2)


class Conv2d(nn.Conv2d):
    """A convolution with strides and padding the same both ways; see `ops.conv2d` for what is special about it.

    Shape:
        - x: `(B, c, H, W)`
        - returns: `(B, c', H', W')`
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolves."""
        (stride, _), (padding, _) = self.stride, self.padding
        assert isinstance(padding, int)
        return conv2d(input, self.weight, self.bias, stride=stride, padding=padding, groups=self.groups)


def conv_of_normed(x: Tensor, norm: MapNorm, conv: Conv2d) -> Tensor:
    """`conv(norm(x, gelu=True))`; for a gradient, what the norm makes is computed once more rather than kept."""
    in_float32 = isinstance(conv, HalvingConv) and conv.widens(x)
    if not strips.keeps_for_gradient(norm, conv) or conv.bias is not None or in_float32:
        return conv(norm(x, gelu=True))
    (stride, _), (padding, _) = conv.stride, conv.padding
    assert isinstance(padding, int)
    numbers = {"stride": stride, "padding": padding, "groups": conv.groups}
    return conv_after(
        functools.partial(_gelu_norm, norm.eps), x, (norm.weight, norm.bias), conv.weight, **numbers
    )


def _gelu_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return map_norm(x.permute(0, 2, 3, 1), weight, bias, eps=eps, gelu=True).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Pictures to tokens at a quarter of their height and width, with learned positions.

    Args:
        in_chans: channels of the picture.
        channels: `c` of the first stage.
        grid_size: (height, width) of the grid of positions; maps of another size get it resized.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, c, ceil(height / 4), ceil(width / 4))`
    """

    def __init__(
        self, in_chans: int, channels: int, *, grid_size: tuple[int, int], device=None, dtype=None
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.grid_size = grid_size
        self.conv1 = Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False, **dd)
        self.norm1 = MapNorm(channels, **dd)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False, **dd)
        self.norm2 = MapNorm(channels, **dd)
        self.conv3 = Conv2d(channels, channels, 3, stride=2, padding=1, bias=False, **dd)
        self.norm3 = MapNorm(channels, **dd)
        self.norm = nn.LayerNorm(channels, eps=1e-5, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, grid_size[0] * grid_size[1], channels, **dd))

    def forward(self, x: Tensor) -> Tensor:
        """Turns pictures into tokens."""
        # Channels last from the start: nothing after this line has to be copied into another layout.
        if not is_transformed():  # `vmap` knows no layouts
            x = x.contiguous(memory_format=torch.channels_last)
        convs, norms = (self.conv1, self.conv2, self.conv3), (self.norm1, self.norm2, self.norm3)
        size = x.numel() // self.conv1.in_channels * self.conv1.out_channels // 4
        if conv_strips.pays(x, self.conv1) and strips.is_plain(*convs, *norms):
            x = conv_strips.normed_convs(x, convs, norms)
        elif (at_once := few_pictures(x, size)) and strips.unobserved(*convs, *norms):
            x = torch.cat([self._embed(pictures) for pictures in x.split(at_once)])
        else:
            x = self._embed(x)
        x = self.norm(x.permute(0, 2, 3, 1))
        positions = self.positions(x.shape[1], x.shape[2]).to(x.dtype)
        return strips.add_parts(x, positions, made_by=self.norm).permute(0, 3, 1, 2)

    def _embed(self, x: Tensor) -> Tensor:
        x = conv_of_normed(self.conv1(x), self.norm1, self.conv2)
        return self.norm3(conv_of_normed(x, self.norm2, self.conv3))

    def positions(self, height: int, width: int) -> Tensor:
        """The positions `(1, height, width, c)` of a map of this size, resized if the grid is of another."""
        return resize_positions(self.pos_embed, self.grid_size, (height, width)).unflatten(1, (height, width))


def resize_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions `(1, N, c)` of an `old` grid (height, width), bicubically resized to a `new` one; row-major both."""
    if old == new:
        return pos_embed
    grid = pos_embed.unflatten(1, old).permute(0, 3, 1, 2)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = F.interpolate(grid, new, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)


def sine_cosine_positions(channels: int, grid_size: tuple[int, int]) -> Tensor:
    """The initial positions: the first half of the channels tells the column, the second the row.

    Shape:
        - returns: `(1, height * width, channels)`, float64, row-major
    """
    quarter = channels // 4
    frequency = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = (torch.arange(n, dtype=torch.float64)[:, None] * frequency for n in grid_size)
    row = torch.cat((row.sin(), row.cos()), 1)[:, None].expand(-1, grid_size[1], -1)
    column = torch.cat((column.sin(), column.cos()), 1)[None].expand(grid_size[0], -1, -1)
    return torch.cat((column, row), -1).reshape(1, -1, 4 * quarter)


class HalvingConv(Conv2d):
    """A depthwise convolution of stride 2 that computes in float32 while it trains in bfloat16 on a CPU.

    PyTorch's backward pass of such a convolution is many times slower there in bfloat16 than in float32
    (`benchmarks/choices.py` measures by how much).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolves."""
        if not self.widens(input):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(input.float(), self.weight.float(), None).to(input.dtype)

    def widens(self, input: Tensor) -> bool:
        """Whether it computes in float32, though the map has fewer bits."""
        return input.device.type == "cpu" and input.dtype == torch.bfloat16 and torch.is_grad_enabled()


class Downsample(nn.Module):
    """Halves height and width between two stages, by a depthwise convolution between two 1x1 ones.

    Shape:
        - x: `(B, channels, H, W)`
        - returns: `(B, out_channels, ceil(H / 2), ceil(W / 2))`
    """

    def __init__(self, channels: int, out_channels: int, *, device=None, dtype=None) -> None:
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        c = out_channels
        super().__init__()
        self.conv1 = Conv2d(channels, c, 1, bias=False, **dd)
        self.norm1 = MapNorm(c, **dd)
        self.conv2 = HalvingConv(c, c, 3, stride=2, padding=1, groups=c, bias=False, **dd)
        self.norm2 = MapNorm(c, **dd)
        self.conv3 = Conv2d(c, c, 1, bias=False, **dd)
        self.norm3 = MapNorm(c, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Halves."""
        convs, norms = (self.conv1, self.conv2, self.conv3), (self.norm1, self.norm2, self.norm3)
        if conv_strips.pays(x, self.conv1) and strips.is_plain(*convs, *norms):
            return conv_strips.normed_convs(x, convs, norms)
        x = conv_of_normed(self.conv1(x), self.norm1, self.conv2)
        return self.norm3(conv_of_normed(x, self.norm2, self.conv3))


class _Block(nn.Module):
    """What all blocks have: an attention and an MLP, each normalised before, and dropped now and then in training."""

    def __init__(
        self,
        channels: int,
        attention: nn.Module,
        *,
        mlp_ratio: float,
        drop_path: float,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm1 = nn.LayerNorm(channels, eps=1e-6, **dd)
        self.attn = attention
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(channels, eps=1e-6, **dd)
        self.mlp = ConvMlp(channels, int(channels * mlp_ratio), **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def _add_mlp(self, x: Tensor) -> Tensor:
        """`x`, which nobody else holds and which may be overwritten, with what the MLP makes of it."""
        mlp = self.mlp
        if not isinstance(mlp, ConvMlp):  # replaced
            return x + self.drop_path2(mlp(self.norm2(x)))
        plain = not self.training and strips.is_plain(self.norm2, mlp, mlp.fc1, mlp.conv, mlp.fc2)
        if plain and strips.in_pieces(x, x.numel() * mlp.fc1.out_features // x.shape[-1]):
            return strips.add_mlp_(x, self.norm2, mlp.fc1, mlp.conv.convolve_rows, mlp.fc2)
        return x + self.drop_path2(mlp.of_normed(x, self.norm2))


class HybridScaleBlock(_Block):
    """The first block of a pair: `(B, H, W, c)` to the same and the significance `(B, H, W)` that it measured."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attends to coarse and near tokens, and measures significance."""
        attended, significance = self.attn(self.norm1(x))
        return self._add_mlp(strips.add_parts(self.drop_path1(attended), x, made_by=self.attn)), significance


class SelfGuidedBlock(_Block):
    """The second block of a pair: `(B, H, W, c)` and the significance `(B, H, W)` to `(B, H, W, c)`."""

    def forward(self, x: Tensor, significance: Tensor) -> Tensor:
        """Attends to tokens merged by significance."""
        return self._add_mlp(
            strips.add_parts(self.drop_path1(self.attn(self.norm1(x), significance)), x, made_by=self.attn)
        )


class GlobalBlock(_Block):
    """A block of the last stage: `(B, H, W, c)` to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Attends to all tokens."""
        return self._add_mlp(
            strips.add_parts(self.drop_path1(self.attn(self.norm1(x))), x, made_by=self.attn)
        )


class Stage(nn.Module):
    """Downsampling, blocks of one resolution, and a norm.

    Args:
        in_channels: channels of the map that comes in.
        channels: `c` of the blocks.
        depth: number of blocks; with a stride they come in pairs, so it is even.
        num_heads: `a`.
        stride: `s` of the pairs' coarse keys, a key of `GROUP_SIZES`; None for blocks with plain global attention.
        mlp_ratio: hidden channels of the MLP over `c`.
        downsample: whether to halve height and width first.
        drop_path: drop path rate of each block.
        token_budget: the most keys that an attention may use; None for the paper's number.

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
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        if stride is not None and depth % 2:
            raise ValueError(f"depth is {depth}; blocks that measure and use significance come in pairs")
        self.grad_checkpointing = False
        self.downsample = Downsample(in_channels, channels, **dd) if downsample else nn.Identity()
        self.blocks = nn.ModuleList()
        options = {"token_budget": token_budget, **dd}
        for i in range(depth):
            kind: type[_Block]
            if stride is None:
                kind = GlobalBlock
                attention = GlobalAttention(channels, num_heads, **options)
            elif i % 2 == 0:
                kind = HybridScaleBlock
                attention = HybridScaleAttention(channels, num_heads, stride=stride, **options)
            else:
                kind = SelfGuidedBlock
                sizes = GROUP_SIZES[stride]
                attention = SelfGuidedAttention(channels, num_heads, group_sizes=sizes, **options)
            self.blocks.append(kind(channels, attention, mlp_ratio=mlp_ratio, drop_path=drop_path[i], **dd))
        self.norm = nn.LayerNorm(channels, eps=1e-6, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms a map; significance is written and read inside, and stays there."""
        return self.forward_significance(x)[0]

    def forward_significance(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Like `forward`, and also returns the significance `(B, H, W)` of each pair of blocks."""
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

    def _run(self, block: nn.Module, *args: Tensor):
        if self.grad_checkpointing:
            return checkpoint(block, *args)
        return block(*args)


def init_released(module: nn.Module) -> None:
    """Initial values of the released model, for `Module.apply`.

    Linear weights are drawn from a truncated normal of 0.02, convolutions from a normal whose variance is 2 over the
    number of outputs that an input reaches; biases are 0, norms 1 and 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Stem):
        with torch.no_grad():
            module.pos_embed.copy_(sine_cosine_positions(module.pos_embed.shape[-1], module.grid_size))


def init_merge_as_mean(module: nn.Module) -> None:
    """Starts merging as the mean of the members of a group, for `Module.apply`.

    The released model starts from noise around 0, whatever the size of the group, so that at first a summary token
    says little of its members.
    """
    if isinstance(module, SelfGuidedAttention):
        for f in module.merge:
            assert isinstance(f, nn.Linear)
            nn.init.constant_(f.weight, 1 / f.in_features)
