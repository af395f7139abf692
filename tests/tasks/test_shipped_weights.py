"""The weights that ship: through timm, by name, and what they say."""

import pytest
import timm
import torch
from skimage import data
from timm.data.imagenet_info import ImageNetInfo

import sgformer
from sgformer.engine.weights import FOLDER, locate, read_metadata


@pytest.fixture(scope="module")
def shipped():
    return sgformer.load("sgformer_t")


@pytest.fixture
def images():
    return torch.rand(2, 3, 96, 128)


def test_timm_gives_the_weights_that_ship(shipped, images):
    model = timm.create_model("sgformer_t", pretrained=True, img_size=112).eval()
    assert model.num_classes == len(shipped.classes) == 1000
    with torch.no_grad():
        assert torch.equal(model(images), shipped(images))
    assert "sgformer_t" in timm.list_pretrained("sgformer*")


def test_other_heads_sizes_and_channels_start_from_them(shipped, images):
    model = timm.create_model("sgformer_t", pretrained=True, num_classes=7, in_chans=1, img_size=192).eval()
    assert model(images[:, :1]).shape == (2, 7)
    own, theirs = model.state_dict(), shipped.backbone.state_dict()
    same = {name for name, tensor in own.items() if tensor.shape == theirs[name].shape and tensor.equal(theirs[name])}
    assert own.keys() - same == {"stem.pos_embed", "stem.conv1.weight", "head.fc.weight", "head.fc.bias"}


def test_feature_maps_are_theirs(shipped, images):
    model = timm.create_model("sgformer_t", pretrained=True, features_only=True, img_size=112).eval()
    with torch.no_grad():
        maps, expected = (model(images), shipped.backbone.forward_intermediates(images, intermediates_only=True))
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


def test_classes_have_names_that_people_can_read(shipped):
    info = ImageNetInfo("imagenet-1k")
    assert shipped.classes == tuple(info.label_names())
    assert [shipped.name_of(i) for i in (0, 281)] == ["tench", "tabby"]
    prediction = shipped.predict(data.chelsea())  # a cat
    assert {label for label, _ in prediction.top} <= {shipped.name_of(i) for i in range(1000)}
    assert 0 < prediction.score < 1


def test_the_file_is_small_and_says_how_it_was_made():
    path = locate("sgformer_t")
    assert path.parent == FOLDER
    assert path.stat().st_size <= 15e6
    metadata = read_metadata(path)
    assert metadata["recipe"]["task"] == "pretrain"
    assert metadata["metrics"]["temperature"] > 0
    assert not metadata["recipe"]["data"]["roots"]
