"""The SG-Former backbone; `sgformer.py` has its entries in timm's registry.

Source: "SG-Former: Self-guided Transformer with Evolving Token Reallocation", ICCV 2023, arXiv 2308.12216.
"""

from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
import torch.fx
import torch.nn as nn
from timm.layers import ClassifierHead
from torch import Tensor

from ..ops import Spending, resize_positions
from .attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from .blocks import SELF_GUIDED, Merging, Stage
from .initial import init_released
from .recorded import grid_of, record_arguments, record_input_size
from .stem import Stem

MIN_SIZE = 32
MIN_BUDGET = 3


class SGFormer(nn.Module):
    """SG-Former: a pyramid of four stages that attend over the whole image, with most keys where it is significant.

    Takes images of any size from 32x32, of any aspect ratio, and never resizes them. Significance ranks the tokens,
    and rounding can swap neighbours in a ranking: in float32 and below, two ways to compute the same thing differ by
    more than rounding alone would explain. In float64 they agree; `hold_significance` makes them comparable below.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling before the head: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or `""` for none.
        img_size: (height, width) in pixels, or one number for both, that the grid of positions is made for. Images
            of any other size get it resized.
        depths: number of blocks of each stage; even wherever the stride is not None.
        channels: `c` of each stage.
        num_heads: `a` of each stage; even wherever the stride is not None.
        strides: for each stage, the side in tokens of the square that one coarse key stands for, `s`; not the stage's
            downsampling. None for a stage of global blocks.
        mlp_ratio: hidden channels of the MLPs, divided by `c`.
        token_budget: the most keys of any attention, not counting the at most 49 within a window; at least 3. The cost
            of attention is then linear in the number of pixels. None for the paper's numbers, which grow with it.
            Weights do not depend on it: change it on a built model with `set_token_budget`.
        merging: how self-guided attention merges tokens: `"ranking"`, the paper's, neighbours in the order of
            significance, wherever they lie; `"regions"`, squares of the map, small ones where it is significant.
        drop_rate: dropout before the head.
        drop_path_rate: drop path rate of the last block; it rises linearly from 0 over all blocks.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, num_classes)`

    Example:
        >>> model = SGFormer(depths=(2, 2, 2, 1), channels=(16, 16, 32, 32), num_heads=(2, 2, 2, 2), num_classes=5)
        >>> model(torch.randn(2, 3, 70, 90)).shape
        torch.Size([2, 5])

    Source:
        The paper; `docs/architecture.md` has the formulae.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        img_size: int | tuple[int, int] = 224,
        depths: Sequence[int] = (2, 4, 16, 1),
        channels: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        strides: Sequence[int | None] = (8, 4, 2, None),
        mlp_ratio: float = 4.0,
        token_budget: int | None = None,
        merging: Merging = "ranking",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        if merging not in SELF_GUIDED:
            raise ValueError(f"merging is {merging!r}; choose one of {', '.join(SELF_GUIDED)}")
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))

        self.stem = Stem(in_chans, channels[0], grid_size=grid_of(img_size), **dd)
        self.stages = nn.Sequential()
        self.feature_info: list[dict[str, Any]] = []
        in_channels = channels[0]
        for i, c in enumerate(channels):
            stage = Stage(
                in_channels,
                c,
                depth=depths[i],
                num_heads=num_heads[i],
                stride=strides[i],
                mlp_ratio=mlp_ratio,
                downsample=i > 0,
                drop_path=drop_paths[i].tolist(),
                merging=merging,
                **dd,
            )
            self.stages.append(stage)
            self.feature_info.append({"num_chs": c, "reduction": 4 * 2**i, "module": f"stages.{i}"})
            in_channels = c
        self.set_token_budget(token_budget)
        self.num_features = self.head_hidden_size = in_channels
        self.head = ClassifierHead(in_channels, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        if not self.stem.pos_embed.is_meta:  # there are no values to draw
            self.init_weights()

    def init_weights(self) -> None:
        """Draws all weights anew; also what a model built on the `meta` device needs after `to_empty`."""
        self.apply(init_released)

    def set_token_budget(self, token_budget: int | None) -> None:
        """Changes how many keys a query may attend to, beside its window; None for the paper's numbers.

        Raises:
            ValueError: if it is below 3.
        """
        if token_budget is not None and token_budget < MIN_BUDGET:
            raise ValueError(f"token_budget is {token_budget}; it must be None or at least {MIN_BUDGET}")
        self.token_budget = token_budget
        for module in self.modules():
            if isinstance(module, HybridScaleAttention | SelfGuidedAttention | GlobalAttention):
                module.token_budget = token_budget
        record_arguments(self, token_budget=token_budget)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resizes the grid of positions for images of this (height, width); no other weight depends on the size."""
        stem, grid_size = self.stem, grid_of(img_size)
        old = stem.pos_embed
        positions = resize_positions(old.detach(), stem.grid_size, grid_size)
        stem.pos_embed = nn.Parameter(positions, requires_grad=old.requires_grad)
        stem.grid_size = grid_size
        record_input_size(self, img_size)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone, beside norms and biases."""
        return {"stem.pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns by which timm groups parameters by depth, for layer-wise learning rates."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", None),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
            ],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Computes each block twice in training, and keeps only its input in between."""
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer of the head."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a new one."""
        self.num_classes = num_classes
        if self.head.in_features == self.num_features:
            self.head.reset(num_classes, pool_type=global_pool)
            return
        # The stages that it stood on were pruned.
        pool_type = self.head.global_pool.pool_type if global_pool is None else global_pool
        like = self.stem.pos_embed
        self.head = ClassifierHead(
            self.num_features,
            num_classes,
            pool_type=pool_type,
            drop_rate=self.drop_rate,
            device=like.device,
            dtype=like.dtype,
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map `(B, c, ceil(height / 32), ceil(width / 32))`."""
        return self.stages(self.stem(check_size(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools and classifies a feature map; with `pre_logits` only pools."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies."""
        return self.forward_head(self.forward_features(x))

    def forward_significance(self, x: Tensor) -> list[Tensor]:
        """The significance map of each pair of blocks, in order: that by which the pair merges tokens into keys.

        A token's significance is the mean of two attention weights: what the coarse key of its square receives from all
        tokens, and what the token receives within its 7x7 window; each in units of its average, so that the mean over
        the image is 1 (within a few per cent where strides do not divide the map). No gradient.

        Args:
            x: images.

        Returns:
            For each pair of blocks a map of its stage's size, in float32 or better.

        Shape:
            - x: `(B, in_chans, height, width)`
            - returns: `(B, H, W)` each

        Source:
            The paper's "hybrid-scale attention", which measures it.
        """
        maps: list[Tensor] = []
        x = self.stem(check_size(x))
        for stage in self.stages:
            x, maps_of_stage = cast(Stage, stage).forward_with_significance(x)
            maps += maps_of_stage
        return maps

    def forward_spending(self, x: Tensor, maps: list[Tensor] | None = None) -> list[Spending]:
        """For each pair of blocks, in order, how finely each token is represented among the keys. No gradient.

        Args:
            x: images `(B, in_chans, height, width)`.
            maps: what `forward_significance` says of them, where it was asked already.

        Returns:
            For each pair, `(B, H, W)` both: `group_size`, how many tokens are merged into one where a token is, and
            `keys`, the share of a key that it accounts for.
        """
        maps = self.forward_significance(x) if maps is None else maps
        return [a.spend(significance) for a, significance in zip(self._self_guided(), maps, strict=True)]

    def _self_guided(self) -> list[SelfGuidedAttention]:
        return [module for module in self.modules() if isinstance(module, SelfGuidedAttention)]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of stages, as timm's other backbones give them.

        Args:
            x: images `(B, in_chans, height, width)`.
            indices: the last n stages if a number, those named if a list, all if None.
            norm: without effect, each stage ends with its norm.
            stop_early: skip the stages after the last one wanted.
            output_fmt: `"NCHW"` or `"NHWC"`.
            intermediates_only: return the list alone, without the last map.

        Raises:
            ValueError: if `output_fmt` is another.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}; choose 'NCHW' or 'NHWC'")
        wanted = _stages_wanted(len(self.stages), indices)
        x = self.stem(check_size(x))
        intermediates = []
        for i, stage in enumerate(self.stages[: max(wanted) + 1] if stop_early else self.stages):
            x = stage(x)
            if i in wanted:
                intermediates.append(x.permute(0, 2, 3, 1) if output_fmt == "NHWC" else x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last one wanted, and the head; returns the indices of those wanted."""
        wanted = _stages_wanted(len(self.stages), indices)
        pruned = max(wanted) < len(self.stages) - 1
        self.stages = self.stages[: max(wanted) + 1]
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[max(wanted)]["num_chs"]
        if pruned or prune_head:
            self.reset_classifier(0, "")
        return wanted

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            "SGFormer cannot be scripted by torch.jit.script; use torch.compile, torch.export or torch.jit.trace"
        )


def _stages_wanted(num: int, indices: int | Sequence[int] | None) -> list[int]:
    """Numbers of stages as timm names them: the last n, a list in which -1 is the last one, or None for all."""
    wanted = range(-indices, 0) if isinstance(indices, int) else range(num) if indices is None else indices
    if not wanted or not all(-num <= i < num for i in wanted):
        raise ValueError(f"indices are {indices}; there are {num} stages: give 1 to {num}, or a list of 0 to {num - 1}")
    return [i % num for i in wanted]


def check_size(x: Tensor) -> Tensor:
    """Returns the images, or raises ValueError where they are too small."""
    if x.shape[-2] < MIN_SIZE or x.shape[-1] < MIN_SIZE:
        raise ValueError(
            f"the image is {x.shape[-2]}x{x.shape[-1]} (height x width); SG-Former needs at least "
            f"{MIN_SIZE}x{MIN_SIZE}: enlarge or pad it"
        )
    return x


torch.fx.wrap("check_size")  # `torch.fx` calls it rather than follow it
