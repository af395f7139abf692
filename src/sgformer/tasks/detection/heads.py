"""torchvision's detection heads on a pyramid, set up so that they hold for images of any size.

Two of torchvision's parts guess the pyramid's strides from sizes, which fails where a side is no multiple of 32: the
anchors by an integer division, the pooling of regions by rounding a logarithm once, at the first batch. Here both are
told. And what lies in a crowd, a region of many objects that were not annotated one by one, is not taught to be
background: those places count neither way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_area, box_iou
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from ...engine import devices
from ...ops import native

# Of the backbone's maps; the pyramid adds one of twice the last stride, for proposals alone.
STRIDES = (4, 8, 16, 32)
# How much of a place must lie in one crowd to be left out of training.
IN_CROWD = 0.5


@dataclass(kw_only=True)
class HeadOptions:
    """Options of the head that finds objects in the backbone's maps.

    Attributes:
        kind: rcnn is Mask R-CNN, or Faster R-CNN without masks; retinanet judges anchors directly and has no masks.
        masks: Whether objects get a mask beside a box.
        channels: Of every map of the pyramid, and of the mask head.
        box_channels: Of the two hidden layers of the box head; rcnn alone.
        anchor_sizes: Sides of the anchors in pixels, for the strides 4, 8, 16, 32 and 64, of retinanet 8 to 128, which
            adds anchors of 1.26 and 1.59 times these sides.
        anchor_ratios: Heights of the anchors, relative to their widths.
        num_proposals: How many regions an image's boxes are looked for in; twice as many in training. Of retinanet,
            how many anchors of each map are kept before boxes that are found twice are dropped.
        num_sampled: Of how many regions of an image training takes the loss; rcnn alone.
        max_detections: How many objects there are in an image at most.
    """

    kind: Literal["rcnn", "retinanet"] = "rcnn"
    masks: bool = True
    channels: int = 256
    box_channels: int = 1024
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, float, float] = (0.5, 1.0, 2.0)
    num_proposals: int = 1000
    num_sampled: int = 512
    max_detections: int = 100

    def __post_init__(self) -> None:
        # JSON has lists only.
        self.anchor_sizes, self.anchor_ratios = tuple(self.anchor_sizes), tuple(self.anchor_ratios)  # pyright: ignore
        if self.max_detections < 1:
            raise ValueError(f"max_detections {self.max_detections} must be at least 1")
        if self.kind == "retinanet" and self.masks:
            raise ValueError("heads.kind retinanet finds boxes alone; set --heads.masks false, or --heads.kind rcnn")


class Anchors(AnchorGenerator):
    """Anchors on grids whose strides, in pixels per place of each level, are known; ratios are height to width."""

    def __init__(self, sizes: Sequence[Sequence[int]], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))  # pyright: ignore
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, the same for all: (number of anchors, 4) in pixels."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        return [torch.cat(self.of_levels(feature_maps))] * len(image_list.image_sizes)

    def of_levels(self, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each level, (places, 4) in pixels."""
        strides: Any = [(stride, stride) for stride in self.strides]
        return self.grid_anchors([list(map_.shape[-2:]) for map_ in feature_maps], strides)


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Tell which of the boxes (n, 4) lie by half of their area or more in one of the crowds (m, 4): bool (n,)."""
    edges = torch.cat(
        [torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])], 2
    )
    shared = (edges[..., 2:] - edges[..., :2]).clamp(min=0).prod(2)  # (n, m)
    return (shared >= IN_CROWD * box_area(boxes)[:, None].clamp(min=1e-6)).any(1)


class Sampled:
    """A sampler of torchvision's that remembers how many places of the last batch it drew, and how many are objects."""

    def __init__(self, sampler: Callable[[list[Tensor]], tuple[list[Tensor], list[Tensor]]]) -> None:
        self.sampler = sampler
        self.num = self.num_objects = 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each image which places are drawn, as masks: objects, and others."""
        objects, others = self.sampler(labels)
        self.num_objects = sum(int(mask.sum()) for mask in objects)
        self.num = self.num_objects + sum(int(mask.sum()) for mask in others)
        return objects, others


class Proposals(RegionProposalNetwork):
    """Proposes regions; in training, anchors in crowds are neither objects nor background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each image 1, 0 or -1 (left out) for each anchor, and the box that it is to become."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for anchor, label, target in zip(anchors, labels, targets, strict=True):
            ignored = (label == 0) & in_crowd(anchor, target["crowds"])
            if (label[~ignored] >= 0).any():  # a mean needs something
                label[ignored] = -1
        return labels, boxes


class Regions(RoIHeads):
    """Names, moves and outlines regions; in training, those in crowds that are no object are left out."""

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Draw samples as torchvision does, of what is left."""
        assert targets is not None
        left = []
        for boxes, target in zip(proposals, targets, strict=True):
            kept = ~in_crowd(boxes, target["crowds"])
            if len(target["boxes"]):
                kept |= box_iou(boxes, target["boxes"].to(boxes)).amax(1) >= self.proposal_matcher.high_threshold
            if len(boxes) and not len(target["boxes"]):
                kept[0] |= ~kept.any()  # a mean needs something
            left.append(boxes[kept])
        return super().select_training_samples(left, targets)  # pyright: ignore[reportReturnType]


class RegionPooling(MultiScaleRoIAlign):
    """Cuts regions out of the maps, each out of the map that suits its area, as side x side values.

    In prediction on a CPU, by a kernel where there is one: one pass for all levels, out of maps as they lie in memory.
    """

    def __init__(self, side: int) -> None:
        super().__init__([str(level) for level in range(len(STRIDES))], side, sampling_ratio=2)
        self.scales = [1 / stride for stride in STRIDES]  # pyright: ignore
        self.map_levels = initLevelMapper(2, 5, canonical_scale=224, canonical_level=4)  # pyright: ignore

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Cut out the regions of all images, as `torchvision.ops.MultiScaleRoIAlign` does."""
        regions = torch.cat([F.pad(of_image, (1, 0), value=i) for i, of_image in enumerate(boxes)])
        if torch.is_grad_enabled() or native.objection([regions]) is not None:
            return super().forward(x, boxes, image_shapes)
        maps = [x[name].permute(0, 2, 3, 1).contiguous() for name in self.featmap_names]
        if native.objection([regions, *maps], channels=maps[0].shape[-1]) is not None:
            return super().forward(x, boxes, image_shapes)
        levels = cast(Any, self.map_levels)(boxes)
        return native.cut_regions(maps, STRIDES, regions, levels, side=self.output_size[0], samples=self.sampling_ratio)


class MaskHead(MaskRCNNHeads):
    """torchvision's convolutions of regions; on a CPU with channels next to each other, a sixth faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps of regions, `(n, channels, side, side)` to the same."""
        if input.device.type == "cpu" and not torch.compiler.is_exporting():
            input = input.contiguous(memory_format=torch.channels_last)
        return super().forward(input)


def create_heads(options: HeadOptions, *, num_classes: int) -> tuple[RegionProposalNetwork, RoIHeads]:
    """Create the heads that propose regions, and that name, move and outline them; the background is no class."""
    channels = options.channels
    anchors = Anchors([(size,) for size in options.anchor_sizes], options.anchor_ratios, (*STRIDES, 2 * STRIDES[-1]))
    proposals = Proposals(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * options.num_proposals, "testing": options.num_proposals},
        post_nms_top_n={"training": 2 * options.num_proposals, "testing": options.num_proposals},
        nms_thresh=0.7,
    )
    masks = {}
    if options.masks:
        masks = {
            "mask_roi_pool": RegionPooling(14),
            "mask_head": MaskHead(channels, (channels,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
        }
    regions = Regions(
        RegionPooling(7),
        TwoMLPHead(channels * 7 * 7, options.box_channels),
        FastRCNNPredictor(options.box_channels, num_classes + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=options.num_sampled,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=options.max_detections,
        **masks,
    )
    for part in (proposals, regions):
        part.fg_bg_sampler = Sampled(part.fg_bg_sampler)  # pyright: ignore[reportAttributeAccessIssue]
    return proposals, regions


def over_processes(losses: dict[str, Tensor], proposals: RegionProposalNetwork, regions: RoIHeads) -> dict[str, Tensor]:
    """Losses whose mean over the processes of a run is the mean over the places that all of them have drawn.

    torchvision divides each sum by the number of places in the batch of its own process.
    """
    first, second = cast(Sampled, proposals.fg_bg_sampler), cast(Sampled, regions.fg_bg_sampler)
    nums = {
        **dict.fromkeys(("loss_objectness", "loss_rpn_box_reg"), first.num),
        **dict.fromkeys(("loss_classifier", "loss_box_reg"), second.num),
        "loss_mask": second.num_objects,
    }
    own = torch.tensor([float(nums[name]) for name in losses], device=next(iter(losses.values())).device)
    shares = own / devices.mean_over_processes(own).clamp(min=1e-6)
    return {name: loss * share for (name, loss), share in zip(losses.items(), shares, strict=True)}
