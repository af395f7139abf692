import pytest
import timm
import torch

import sgformer  # noqa: F401
from sgformer.engine.weights import WeightsError
from sgformer.ops import resize_positions
from sgformer.tasks.backbones import Pyramid, create_backbone
from sgformer.tasks.classification import Classifier
from sgformer.tasks.images import Preprocessing


@pytest.mark.parametrize(
    ("old", "new"),
    [((64, 32), (32, 64)), ((64, 64), (64, 64)), ((64, 64), (32, 128)), ((33, 47), (225, 61)), (None, (48, 48))],
)
def test_positions_are_resized_from_any_grid_to_any(tmp_path, old, new):
    classifier = Classifier(
        "sgformer_test",
        classes=["a", "b"],
        preprocessing=Preprocessing(image_size=(64, 64)),
        kwargs={"img_size": list(old)} if old else {},
    )
    classifier.save(tmp_path / "w.safetensors")
    pyramid = Pyramid("sgformer_test", {"img_size": new})
    pyramid.start_from(tmp_path / "w.safetensors")
    theirs = classifier.backbone.stem
    ours = next(module for module in pyramid.modules() if hasattr(module, "pos_embed"))
    assert ours.grid_size != theirs.grid_size or old == new
    expected = resize_positions(theirs.pos_embed, theirs.grid_size, ours.grid_size, backend="reference")
    assert torch.equal(ours.pos_embed, expected)


def test_positions_that_are_no_grid_are_refused(tmp_path):
    classifier = Classifier(
        "test_vit", classes=["a", "b"], preprocessing=Preprocessing(image_size=(64, 64)), kwargs={"img_size": 64}
    )
    classifier.save(tmp_path / "w.safetensors")
    pyramid = Pyramid("test_vit", {"img_size": 96}, strides=(16,))
    with pytest.raises(WeightsError, match="pos_embed"):
        pyramid.start_from(tmp_path / "w.safetensors")


def test_trained_weights_of_timm_without_a_connection(monkeypatch):
    def no_connection(*args, **kwargs):
        raise OSError("cannot find the requested files")

    monkeypatch.setattr(timm, "create_model", no_connection)
    with pytest.raises(ValueError, match=r"weights for resnet10t cannot be fetched; check the connection"):
        create_backbone("resnet10t", {}, pretrained=True)
    with pytest.raises(OSError, match="requested files"):
        create_backbone("resnet10t", {})
