"""torchvision's detection heads on a pyramid, set up so that they hold for pictures of any size.

Two of torchvision's parts guess the pyramid's strides from sizes, which fails where a side is no multiple of 32: the
anchors by an integer division, the pooling of regions by rounding a logarithm once, at the first batch. Here both are
told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

# Of the backbone's maps; the pyramid adds one of twice the last stride, for proposals alone.
STRIDES = (4, 8, 16, 32)


@dataclass(kw_only=True)
class HeadOptions:
    """What finds objects in the backbone's maps: Mask R-CNN, or Faster R-CNN without masks.

    Attributes:
        masks: Whether objects get a mask beside a box.
        channels: Of every map of the pyramid, and of the mask head.
        box_channels: Of the two hidden layers of the box head.
        anchor_sizes: Sides of the anchors in pixels, for the strides 4, 8, 16, 32 and 64.
        anchor_ratios: Heights of the anchors, relative to their widths.
        num_proposals: How many regions a picture's boxes are looked for in; twice as many in training.
        num_sampled: Of how many regions of a picture training takes the loss.
        max_detections: How many objects there are in a picture at most.
    """

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


class Anchors(AnchorGenerator):
    """Anchors on grids whose strides are known.

    Args:
        sizes: Sides of the squares of a level's anchors, one a level.
        ratios: Height to width, the same at all levels.
        strides: Pixels per place of each level.
    """

    def __init__(self, sizes: Sequence[int], ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))  # pyright: ignore
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each picture, the same for all: (number of anchors, 4) in pixels."""
        first = feature_maps[0]
        self.set_cell_anchors(first.dtype, first.device)
        strides = [[torch.tensor(stride, device=first.device)] * 2 for stride in self.strides]
        grids = [list(map_.shape[-2:]) for map_ in feature_maps]
        anchors = torch.cat(self.grid_anchors(grids, strides))
        return [anchors] * len(image_list.image_sizes)


def region_pooling(size: int) -> MultiScaleRoIAlign:
    """Cuts regions out of the maps, each out of the map that suits its area, as size x size values."""
    pooling = MultiScaleRoIAlign([str(level) for level in range(len(STRIDES))], size, sampling_ratio=2)
    pooling.scales = [1 / stride for stride in STRIDES]  # pyright: ignore
    pooling.map_levels = initLevelMapper(2, 5, canonical_scale=224, canonical_level=4)  # pyright: ignore
    return pooling


def create_heads(options: HeadOptions, *, num_classes: int) -> tuple[RegionProposalNetwork, RoIHeads]:
    """What proposes regions, and what names, moves and outlines them.

    Args:
        options: The recipe's section ``heads``.
        num_classes: Without the background.
    """
    channels = options.channels
    anchors = Anchors(options.anchor_sizes, options.anchor_ratios, (*STRIDES, 2 * STRIDES[-1]))
    proposals = RegionProposalNetwork(
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
            "mask_roi_pool": region_pooling(14),
            "mask_head": MaskRCNNHeads(channels, (channels,) * 4, 1),
            "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes + 1),
        }
    regions = RoIHeads(
        region_pooling(7),
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
    return proposals, regions
