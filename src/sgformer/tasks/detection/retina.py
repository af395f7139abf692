"""RetinaNet of torchvision's parts: a one-stage detector without masks."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from .heads import STRIDES, Anchors, HeadOptions, in_crowd

# The finest map is left out, where four convolutions for each of two heads would cost more than all else.
LEVELS = slice(1, None)


def create_neck(channels: Sequence[int], width: int) -> FeaturePyramidNetwork:
    """Create the pyramid: from the backbone's maps without the finest to maps of strides 8, 16, 32, 64 and 128."""
    return FeaturePyramidNetwork(list(channels[LEVELS]), width, LastLevelP6P7(width, width))


class Retina(RetinaNet):
    """Head that finds boxes in a pyramid's maps, for classes without the background.

    torchvision's class also prepares images and holds a backbone; of it this uses the head, the loss and what makes
    boxes of scores.
    """

    def __init__(self, options: HeadOptions, *, num_classes: int) -> None:
        nothing = nn.Identity()
        nothing.out_channels = options.channels  # pyright: ignore
        sizes = [[round(size * 2 ** (step / 3)) for step in range(3)] for size in options.anchor_sizes]
        strides = (*STRIDES[LEVELS], 2 * STRIDES[-1], 4 * STRIDES[-1])
        super().__init__(
            nothing,
            num_classes + 1,  # labels start from 1
            anchor_generator=Anchors(sizes, options.anchor_ratios, strides),
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=options.max_detections,
            topk_candidates=options.num_proposals,
        )

    def losses(
        self, maps: "OrderedDict[str, Tensor]", images: ImageList, targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses."""
        features = list(maps.values())
        return self.compute_loss(targets, self.head(features), self.anchor_generator(images, features))

    def found(self, maps: "OrderedDict[str, Tensor]", images: ImageList) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores in each image."""
        features = list(maps.values())
        outputs, anchors = self.head(features), self.anchor_generator(images, features)
        per_place = self.anchor_generator.num_anchors_per_location()[0]
        sizes = [per_place * map_.shape[2] * map_.shape[3] for map_ in features]
        return self.postprocess_detections(
            {name: output.split(sizes, 1) for name, output in outputs.items()},  # pyright: ignore
            [list(anchor.split(sizes)) for anchor in anchors],
            images.image_sizes,
        )

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Compute the loss of anchors that are objects or background; those in crowds are neither."""
        matcher, matched = self.proposal_matcher, []
        for places, target in zip(anchors, targets, strict=True):
            none = torch.full((len(places),), matcher.BELOW_LOW_THRESHOLD, device=places.device)
            match = matcher(box_iou(target["boxes"], places)) if len(target["boxes"]) else none
            background = match == matcher.BELOW_LOW_THRESHOLD
            match[background & in_crowd(places, target["crowds"])] = matcher.BETWEEN_THRESHOLDS
            matched.append(match)
        return self.head.compute_loss(targets, head_outputs, anchors, matched)
