"""Detectors in exportable operations: one image to a list of objects of fixed length, or a pyramid.

Torchvision's heads drop boxes as they go, so that every list is as long as an image has it. Here no list changes its
length: what is dropped keeps its place with a score of -1, and lists are cut to a number by `topk`. Overlaps are
suppressed by the same operator, regions are cut out of the maps by the same operator; ONNX has both.
"""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms, roi_align

from ..export import InHalf, Part
from .model import Detector

NOTHING = -1.0  # the score of an empty place
# Boxes of one class that is likely enough are kept until overlaps are suppressed, this many times the proposals, or so
# many where proposals are few, of which early in training all classes may be likely.
MAX_CANDIDATES, FEW_CANDIDATES = 2, 2000
MIN_OVERLAP = 0.9  # of two boxes that are taken for the same object; see `compare`


def part(model: Detector, *, half: bool = False, pyramid: bool = False) -> Part:
    """Export the objects of an image, or the maps of a pyramid without heads. Only the maps are in float16."""
    maps = ExportablePyramid(model)
    shared: dict[str, Any] = {"backbone": model.backbone}
    about = {"category_ids": list(model.category_ids), "part": "pyramid"}
    if pyramid:
        first = 8 if model.heads.kind == "retinanet" else 4
        return Part(
            module=InHalf(maps) if half else maps,
            reference=lambda x: list(model._maps(list(x)).values()),
            outputs=tuple(f"stride{first * 2**level}" for level in range(5)),
            about=about,
            **shared,
        )
    outputs = ("boxes", "labels", "scores", *(("masks",) if model.heads.masks else ()))
    least = (model.retina if model.heads.kind == "retinanet" else model.roi_heads).score_thresh
    return Part(
        module=ExportableDetector(model, InHalf(maps) if half else maps),
        reference=lambda x: reference(model, x),
        outputs=outputs,
        scores="scores",
        about=about | {"part": "objects", "max_detections": model.heads.max_detections},
        batch=1,
        compare=partial(compare, names=outputs, least=least),
        **shared,
    )


class ExportablePyramid(nn.Module):
    """The feature pyramid of a detector: the backbone's maps through torchvision's pyramid, and coarser maps.

    Shape:
        - x: `(B, 3, height, width)`
        - returns: maps of stride 4, 8, 16, 32 and 64, or 8 to 128 of a RetinaNet, `(B, channels, H, W)`
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, copy.deepcopy(model.neck).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps from fine to coarse."""
        maps = self.backbone(x)[-len(self.neck.inner_blocks) :]  # pyright: ignore
        return tuple(self.neck({str(level): map_ for level, map_ in enumerate(maps)}).values())


class ExportableDetector(nn.Module):
    """Objects in one image, the surest first.

    The list is as long as the detector may find objects. Places beyond those that it found have score and label 0.
    ``pyramid`` makes of images the maps that objects are found in.

    Shape:
        - x: `(1, 3, height, width)`
        - returns: boxes `(n, 4)` in pixels of x, labels `(n,)` from 1, scores `(n,)`, masks `(n, 28, 28)` within the
          boxes if the model has masks
    """

    def __init__(self, model: Detector, pyramid: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.find = RetinaBoxes(model) if model.heads.kind == "retinanet" else RegionBoxes(model)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Finds objects."""
        boxes, labels, scores, *masks = self.find(list(self.pyramid(x)), (x.shape[2], x.shape[3]))
        found = scores > 0
        return (
            boxes * found.unsqueeze(1),
            labels * found,
            scores * found,
            *(shapes * found[:, None, None] for shapes in masks),
        )


class RegionBoxes(nn.Module):
    """Find boxes as `RegionProposalNetwork` and `RoIHeads` do, in the maps of one image."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.rpn: Any = copy.deepcopy(model.rpn).eval()
        self.heads: Any = copy.deepcopy(model.roi_heads).eval()
        _follow(self.rpn)
        self.num_proposals = model.heads.num_proposals

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Boxes, labels, scores, and masks if there are some."""
        proposals, scores = self._propose(maps, size)
        heads = self.heads
        features = heads.box_head(_cut_regions(heads.box_roi_pool, maps, proposals))
        logits, moves = heads.box_predictor(features)
        boxes = heads.box_coder.decode_single(moves, proposals).unflatten(1, (-1, 4))  # (K, classes + 1, 4)
        likely = logits.softmax(-1).masked_fill(scores.unsqueeze(1) == NOTHING, NOTHING)[:, 1:].flatten()
        boxes = box_ops.clip_boxes_to_image(boxes[:, 1:].flatten(0, 1), size)
        labels = torch.arange(1, logits.shape[1], device=boxes.device).repeat(len(proposals))
        likely = _unless(likely > heads.score_thresh, likely)
        most = max(MAX_CANDIDATES * self.num_proposals, FEW_CANDIDATES)
        likely, place = likely.topk(min(len(likely), most))
        boxes, labels = boxes[place], labels[place]
        likely = _suppress(_large_enough(boxes, likely, 1e-2), boxes, heads.nms_thresh, groups=labels)
        likely, place = likely.topk(min(len(likely), heads.detections_per_img))
        boxes, labels = boxes[place], labels[place]
        if not heads.has_mask():
            return boxes, labels, likely
        shapes = heads.mask_head(_cut_regions(heads.mask_roi_pool, maps, boxes))
        shapes = heads.mask_predictor(shapes).sigmoid()  # (n, classes + 1, 28, 28)
        own = torch.arange(len(boxes), device=boxes.device)
        return boxes, labels, likely, shapes[own, labels]

    def _propose(self, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Propose as many boxes as there may be, `(K, 4)`, with their scores, `(K,)`."""
        rpn, boxes, scores = self.rpn, [], []
        moves: Tensor
        for sure, moves, anchors in zip(*rpn.head(maps), rpn.anchor_generator.of_levels(maps), strict=True):
            sure, place = _best(sure.permute(0, 2, 3, 1).flatten(), self.num_proposals)
            moves = moves.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)
            moved = rpn.box_coder.decode_single(moves[place], anchors[place])
            moved = box_ops.clip_boxes_to_image(moved, size)
            likely = _unless(sure > -torch.inf, sure.sigmoid())
            likely = _unless(likely >= rpn.score_thresh, likely)
            boxes.append(moved)
            scores.append(_suppress(_large_enough(moved, likely, rpn.min_size), moved, rpn.nms_thresh))
        likely, place = torch.cat(scores).topk(self.num_proposals)
        return torch.cat(boxes)[place] * (likely > NOTHING).unsqueeze(1), likely


class RetinaBoxes(nn.Module):
    """Find boxes as `RetinaNet` does, in the maps of one image."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.retina: Any = copy.deepcopy(model.retina).eval()
        _follow(self.retina)

    def forward(self, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, labels and scores."""
        retina, found = self.retina, []
        for map_, anchors in zip(maps, retina.anchor_generator.of_levels(maps), strict=True):
            outputs = retina.head([map_])
            logits, moves = outputs["cls_logits"][0], outputs["bbox_regression"][0]
            num_classes = logits.shape[1]
            sure, place = _best(logits.flatten(), retina.topk_candidates)
            anchor = place // num_classes
            boxes = retina.box_coder.decode_single(moves[anchor], anchors[anchor])
            boxes = box_ops.clip_boxes_to_image(boxes, size)
            scores = sure.sigmoid()
            found.append((boxes, place % num_classes, _unless(scores > retina.score_thresh, scores)))
        boxes, labels, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        scores = _suppress(scores, boxes, retina.nms_thresh, groups=labels)
        scores, place = scores.topk(retina.detections_per_img)
        return boxes[place], labels[place], scores


def _follow(finder: Any) -> None:
    """Give its anchors the parameters' type and device: they are no buffers, and keep those of the last images."""
    first = next(finder.parameters())
    finder.anchor_generator.set_cell_anchors(first.dtype, first.device)


def _best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The highest scores and their places; where there are fewer, -inf and a place that exists."""
    none = scores.new_full((number,), -torch.inf)
    best, place = torch.cat((scores, none)).topk(number)
    last = torch.full((1,), scores.shape[0] - 1, device=scores.device)
    return best, torch.minimum(place, last)


def _unless(holds: Tensor, scores: Tensor) -> Tensor:
    """The scores, and `NOTHING` where a condition does not hold."""
    return torch.where(holds, scores, torch.full_like(scores, NOTHING))


def _large_enough(boxes: Tensor, scores: Tensor, side: float) -> Tensor:
    """The scores, and `NOTHING` where a side of the box is shorter."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return _unless((width >= side) & (height >= side), scores)


def _suppress(scores: Tensor, boxes: Tensor, threshold: float, *, groups: Tensor | None = None) -> Tensor:
    """The scores, and `NOTHING` where a surer box overlaps, of the same group if there are groups."""
    boxes = boxes * (scores > NOTHING).unsqueeze(1)  # what is left out has no area, and overlaps nothing
    if groups is not None:  # far apart
        boxes = boxes + (groups * (boxes.max() + 1)).unsqueeze(1)
    kept = nms(boxes, scores, threshold)
    stays = torch.zeros_like(scores).index_put((kept,), torch.ones_like(kept, dtype=scores.dtype))
    return _unless(stays > 0, scores)


def _cut_regions(pooling: Any, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """Cut each box out of the map that suits its area, as `MultiScaleRoIAlign` does: `(n, channels, side, side)`."""
    level = pooling.map_levels([boxes])
    side = pooling.output_size[0]
    regions = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)  # all of image 0
    cut = maps[0].new_zeros(len(boxes), maps[0].shape[1], side, side)
    for number, scale in enumerate(pooling.scales):
        (own,) = torch.nonzero(level == number, as_tuple=True)
        out = roi_align(maps[number], regions[own], (side, side), scale, pooling.sampling_ratio)
        cut = cut.index_put((own,), out)
    return cut


def list_objects(found: dict[str, Tensor], number: int) -> list[Tensor]:
    """List what torchvision's heads found in an image, as `ExportableDetector` does."""
    names = [name for name in ("boxes", "labels", "scores", "masks") if name in found]
    listed = []
    for name in names:
        values = found[name].squeeze(1) if name == "masks" else found[name]
        empty = values.new_zeros(number - len(values), *values.shape[1:])
        listed.append(torch.cat((values, empty)))
    return listed


def reference(model: Detector, x: Tensor) -> list[Tensor]:
    """List what the model itself finds in one prepared image."""
    size = (int(x.shape[2]), int(x.shape[3]))
    maps, batch = model._maps(list(x)), ImageList(x, [size])
    if model.heads.kind == "retinanet":
        found = model.retina.found(maps, batch)[0]
        return list_objects(found, model.heads.max_detections)
    proposals, _ = model.rpn(batch, maps)
    return list_objects(model.roi_heads(maps, proposals, [size])[0][0], model.heads.max_detections)


def compare(
    given: Sequence[Tensor], expected: Sequence[Tensor], *, names: Sequence[str], least: float, share: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Compare two lists of objects: for each name the largest difference, and the largest value.

    Objects are paired by label and place, from either list to the other. Near a threshold rounding decides what
    overlaps or is sure enough, and rarely it decides otherwise; so only a share of the objects is looked at, those that
    agree best. Differences are infinite where too many are in one list only. ``names`` are those of both lists, such as
    ``boxes``; below the score ``least`` nothing is listed.
    """
    ours, theirs = (dict(zip(names, values, strict=True)) for values in (given, expected))
    # What is within rounding of being left out may be in one list only.
    least = max(least, float(ours["scores"][-1]), float(theirs["scores"][-1])) + 1e-3
    apart: dict[str, list[float]] = {name: [] for name in names}
    for one, other in ((ours, theirs), (theirs, ours)):
        alike = (one["labels"][:, None] == other["labels"]) & (other["scores"] > 0)
        overlap, place = (box_ops.box_iou(one["boxes"], other["boxes"]) * alike).max(1)
        for i in torch.nonzero(one["scores"] > least).flatten().tolist():
            for name in names:
                difference = float((one[name][i] - other[name][place[i]]).abs().max())
                apart[name].append(difference if overlap[i] > MIN_OVERLAP else torch.inf)
    found = {}
    for name, differences in apart.items():
        looked_at = sorted(differences)[: math.ceil(share * len(differences))]
        found[name] = (looked_at[-1] if looked_at else 0.0, float(theirs[name].abs().max()))
    return found
