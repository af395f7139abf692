"""A small detector, as it begins and so that it finds something."""

import torch

import sgformer  # noqa: F401
from sgformer.tasks.detection.heads import HeadOptions
from sgformer.tasks.detection.model import Detector, Preprocessing

HEADS = HeadOptions(channels=16, box_channels=32, anchor_sizes=(16, 24, 32, 64, 128), num_proposals=50, num_sampled=32)
SIZE = (48, 96)


def detector(name="sgformer_test", classes=("disc", "bar"), heads=HEADS, **kwargs):
    torch.manual_seed(0)
    preprocessing = Preprocessing.of(name, SIZE)
    return Detector(name, classes=classes, preprocessing=preprocessing, heads=heads, **kwargs).eval()


def lively(model):
    """With weights that let it find something: initial ones give every class the same score."""
    torch.manual_seed(1)
    for part in (model.roi_heads.box_predictor, model.roi_heads.mask_predictor):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.roi_heads.score_thresh = 0.0
    return model
