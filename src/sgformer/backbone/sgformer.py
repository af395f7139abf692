"""The SG-Former backbone and its entries in timm's registry.

Source: "SG-Former: Self-guided Transformer with Evolving Token Reallocation", ICCV 2023, arXiv 2308.12216.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor

from ..ops import Spending
from .attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from .blocks import Stage, Stem, init_merge_as_mean, init_released, resize_positions
from .guidance import Guidance, check_guidance
from .official import checkpoint_filter_fn
from .recorded import grid_of, record_arguments, record_input_size

MIN_SIZE = 32
MIN_BUDGET = 3


class SGFormer(nn.Module):
    """SG-Former: a pyramid of four stages whose attention is global, and spends its keys where they matter.

    Takes pictures of any size from 32x32, of any aspect ratio, and never resizes them. Significance ranks the tokens,
    and rounding can swap neighbours in a ranking: in float32 and below, two ways to compute the same thing differ by
    more than rounding alone would explain. In float64 they agree; `hold_significance` makes them comparable below.

    Args:
        in_chans: channels of the picture.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling before the head: `"avg"`, `"max"`, `"avgmax"`, `"catavgmax"`, or `""` for none.
        img_size: (height, width) in pixels, or one number for both, that the grid of positions is made for. Pictures
            of any other size get it resized.
        depths: number of blocks of each stage; even in all but the last.
        channels: `c` of each stage.
        num_heads: `a` of each stage; even in all but the last.
        strides: `s` of each stage; None for plain global attention.
        mlp_ratio: hidden channels of the MLPs over `c`.
        token_budget: the most keys and values that a query may look at beside its own window, at least 3; the cost of
            attention is then linear in the number of pixels. None for the paper's numbers, which grow with the picture.
            Weights do not depend on it: change it on a built model with `set_token_budget`.
        guidance: what decides which tokens are merged finely: `"significance"`, as in the paper; `"uniform"`, all
            places alike; `"random"`. The last two show what significance is worth: weights and cost are the same.
            Change it on a built model with `set_guidance`.
        guidance_seed: decides the random order, which is another in each pair of blocks.
        drop_rate: dropout before the head.
        drop_path_rate: drop path rate of the last block; it rises linearly from 0 over all blocks.
        weight_init: `"released"`, the initialisation of the released model, or `"mean"`, in which merging starts as a
            mean and not as noise. Neither trained better beyond doubt (see `docs/initialisation.md`).

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, num_classes)`

    Example:
        >>> model = SGFormer(depths=(2, 2, 2, 1), channels=(16, 16, 32, 32), num_heads=(2, 2, 2, 2), num_classes=5)
        >>> model(torch.randn(2, 3, 70, 90)).shape
        torch.Size([2, 5])

    Source:
        The paper; `attention.py` has its formulae.
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
        guidance: Guidance = "significance",
        guidance_seed: int = 0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        weight_init: Literal["released", "mean"] = "released",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if weight_init not in ("released", "mean"):
            raise ValueError(f"weight_init is {weight_init!r}; choose 'released' or 'mean'")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.weight_init = weight_init
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
                **dd,
            )
            self.stages.append(stage)
            self.feature_info.append({"num_chs": c, "reduction": 4 * 2**i, "module": f"stages.{i}"})
            in_channels = c
        self.set_token_budget(token_budget)
        self.set_guidance(guidance, seed=guidance_seed)
        self.num_features = self.head_hidden_size = in_channels
        self.head = ClassifierHead(in_channels, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        if not self.stem.pos_embed.is_meta:  # there are no values to draw
            self.init_weights()

    def init_weights(self) -> None:
        """Draws all weights anew; also what a model built on the `meta` device needs after `to_empty`."""
        self.apply(init_released)
        if self.weight_init == "mean":
            self.apply(init_merge_as_mean)

    def set_token_budget(self, token_budget: int | None) -> None:
        """Changes the most keys and values that a query may look at beside its window; None for the paper's numbers.

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

    def set_guidance(self, guidance: Guidance, *, seed: int = 0) -> None:
        """Changes what decides which tokens are merged finely: `"significance"`, `"uniform"` or `"random"`."""
        check_guidance(guidance)
        self.guidance = guidance
        for i, attention in enumerate(self._self_guided()):
            attention.guidance, attention.guidance_seed = guidance, seed + i

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resizes the grid of positions for pictures of this (height, width); no other weight depends on the size."""
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
        """How timm groups parameters by depth, for layer-wise learning rates."""
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
            *(self.num_features, num_classes),
            pool_type=pool_type,
            drop_rate=self.drop_rate,
            device=like.device,
            dtype=like.dtype,
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map `(B, c, ceil(height / 32), ceil(width / 32))`."""
        return self.stages(self.stem(self._check_size(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools and classifies a feature map; with `pre_logits` only pools."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies."""
        return self.forward_head(self.forward_features(x))

    def forward_significance(self, x: Tensor) -> list[Tensor]:
        """The significance map of each pair of blocks, in order: what the model spends its keys by.

        A token's significance is the weight that it receives from the others, in units in which the mean over the
        image is 1 (within a few per cent where strides do not divide the map). No gradient.

        Args:
            x: pictures.

        Returns:
            For each pair of blocks a map of its stage's size, in float32 or better.

        Shape:
            - x: `(B, in_chans, height, width)`
            - returns: `(B, H, W)` each

        Source:
            The paper's "hybrid-scale attention", which measures it.
        """
        maps: list[Tensor] = []
        x = self.stem(self._check_size(x))
        for stage in self.stages:
            x, maps_of_stage = cast(Stage, stage).forward_significance(x)
            maps += maps_of_stage
        return maps

    def forward_spending(self, x: Tensor, maps: list[Tensor] | None = None) -> list[Spending]:
        """For each pair of blocks, in order, how many tokens are merged into one where a token is. No gradient.

        Args:
            x: pictures `(B, in_chans, height, width)`.
            maps: what `forward_significance` says of them, where it was asked already.

        Returns:
            `group_size` and `keys`, `(B, H, W)` both, for each pair.
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
            x: pictures `(B, in_chans, height, width)`.
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
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        x = self.stem(self._check_size(x))
        intermediates = []
        for i, stage in enumerate(self.stages[: max_index + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take_indices:
                intermediates.append(x.permute(0, 2, 3, 1) if output_fmt == "NHWC" else x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops the stages after the last one wanted, and the head; returns the indices of those wanted."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        pruned = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        if pruned:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
        if pruned or prune_head:
            self.reset_classifier(0, "")
        return take_indices

    def _check_size(self, x: Tensor) -> Tensor:
        if x.shape[-2] < MIN_SIZE or x.shape[-1] < MIN_SIZE:
            raise ValueError(
                f"the picture is {x.shape[-2]}x{x.shape[-1]} (height x width); SG-Former needs at least "
                f"{MIN_SIZE}x{MIN_SIZE}: enlarge or pad it"
            )
        return x


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> SGFormer:
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        SGFormer,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"flatten_sequential": True, "out_indices": out_indices},
        **kwargs,
    )


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, MIN_SIZE, MIN_SIZE),
        "fixed_input_size": False,
        "pool_size": (7, 7),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "sgformer_test": _cfg(),
        "sgformer_t": _cfg(),
        "sgformer_s": _cfg(),
        "sgformer_m": _cfg(),
        "sgformer_b": _cfg(),
    }
)


@register_model
def sgformer_test(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """For tests: every kind of block, in under a million parameters."""
    args = {"depths": (2, 2, 2, 1), "channels": (16, 32, 48, 64), "num_heads": (2, 2, 2, 4), "mlp_ratio": 2.0}
    return _create("sgformer_test", pretrained, **{**args, **kwargs})


@register_model
def sgformer_t(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """For laptops; this project's own.

    Half of S's width where maps are large and memory traffic rules, three quarters where matrix products count; most
    of the depth in stage 3, as in S, where tokens are many enough to choose among and few enough to be cheap.
    """
    args = {"depths": (2, 2, 6, 1), "channels": (32, 64, 192, 384), "num_heads": (2, 2, 6, 12)}
    return _create("sgformer_t", pretrained, **{**args, **kwargs})


@register_model
def sgformer_s(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's small model: 22.5M parameters, 4.8 GMACs at 224."""
    args = {"depths": (2, 4, 16, 1), "channels": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16)}
    return _create("sgformer_s", pretrained, **{**args, **kwargs})


@register_model
def sgformer_m(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's medium model: 38.7M parameters, 7.4 GMACs at 224."""
    args = {"depths": (2, 6, 28, 2), "channels": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16)}
    return _create("sgformer_m", pretrained, **{**args, **kwargs})


@register_model
def sgformer_b(pretrained: bool = False, **kwargs: Any) -> SGFormer:
    """The paper's base model: 78.0M parameters, 15.5 GMACs at 224."""
    args = {"depths": (4, 6, 24, 2), "channels": (96, 192, 384, 768), "num_heads": (4, 6, 12, 24)}
    return _create("sgformer_b", pretrained, **{**args, **kwargs})
