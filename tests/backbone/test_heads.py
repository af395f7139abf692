"""Other people's heads on our backbone, forward and backward, on images that are not square."""

import pytest
import timm
import torch

import sgformer  # noqa: F401


def assert_trained(module):
    """Every parameter has got a finite gradient."""
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", ["UPerNet", "FPN"])
def test_segmentation_models_pytorch(head):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, head)("tu-sgformer_t", encoder_weights=None, classes=5)
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 5, 64, 96)
    logits.square().mean().backward()
    assert_trained(model.encoder)


def test_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmBackboneConfig(
        backbone="sgformer_test", use_pretrained_backbone=False, out_indices=(1, 2, 3)
    )
    model = transformers.TimmBackbone(config)
    features = model(torch.randn(2, 3, 70, 100)).feature_maps
    assert [tuple(f.shape) for f in features] == [(2, 32, 9, 13), (2, 48, 5, 7), (2, 64, 3, 4)]
    assert list(model.channels) == [32, 48, 64]
    sum(f.square().mean() for f in features).backward()
    assert_trained(model)


class Pyramid(torch.nn.Module):
    """A timm backbone below torchvision's feature pyramid."""

    def __init__(self, name, out_channels=32, **options):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

        self.body = timm.create_model(name, features_only=True, **options)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x):
        return self.fpn({str(i): features for i, features in enumerate(self.body(x))})


@pytest.mark.parametrize("feature_cls", ["list", "getter"])
def test_torchvision_mask_rcnn(feature_cls):
    detection = pytest.importorskip("torchvision.models.detection")
    sizes = tuple((s,) for s in (16, 32, 64, 128, 256))
    model = detection.MaskRCNN(
        Pyramid("sgformer_test", feature_cls=feature_cls),
        num_classes=3,
        min_size=96,
        max_size=160,
        rpn_anchor_generator=detection.rpn.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
    )
    masks = torch.zeros(1, 90, 130, dtype=torch.uint8)
    masks[:, 20:60, 30:90] = 1
    target = {"boxes": torch.tensor([[30.0, 20.0, 90.0, 60.0]]), "labels": torch.tensor([1]), "masks": masks}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": masks[:0]}
    losses = model([torch.rand(3, 90, 130), torch.rand(3, 100, 70)], [target, empty])
    assert len(losses) == 5
    sum(losses.values()).backward()
    assert_trained(model.backbone.body)
    model.eval()
    with torch.no_grad():
        assert model([torch.rand(3, 90, 130)])[0].keys() == {"boxes", "labels", "scores", "masks"}
    if feature_cls == "getter":
        assert len(model.backbone.body.model.forward_significance(torch.rand(1, 3, 64, 96))) == 3
