import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's metric needs pycocotools")

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.engine.weights import WeightsError
from sgformer.explanations import significance_maps
from sgformer.tasks.classification import Classifier
from sgformer.tasks.detection.augment import resized
from sgformer.tasks.detection.draw import COLOURS
from sgformer.tasks.detection.heads import Anchors
from sgformer.tasks.detection.prediction import Detections
from sgformer.tasks.images import Preprocessing as ClassifierPreprocessing
from small_detectors import HEADS, detector, lively


def make_images(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


# ---- sizes


@pytest.mark.parametrize(("size", "expected"), [((100, 100), (48, 48)), ((10, 1000), (32, 96)), ((600, 480), (60, 48))])
def test_images_keep_their_shape(size, expected):
    assert resized(size, shorter=48, longest=96) == expected


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 130), (97, 64)])
def test_strides_are_known_whatever_the_size(size):
    """torchvision would take the anchors' strides from sizes: of 33 pixels on 9 places it makes 3."""
    model = detector()
    maps = model._maps([torch.zeros(3, *size)])
    strides = [4, 8, 16, 32, 64]
    assert [map_.shape[2:] for map_ in maps.values()] == [
        tuple(-(-side // stride) for side in size) for stride in strides
    ]
    image_list = type("Images", (), {"image_sizes": [size]})
    anchors = model.rpn.anchor_generator(image_list, list(maps.values()))[0]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [
        (x * stride, y * stride)
        for map_, stride in zip(maps.values(), strides, strict=True)
        for y in range(map_.shape[2])
        for x in range(map_.shape[3])
        for _ in range(3)
    ]
    assert torch.equal(centres, torch.tensor(expected, dtype=torch.float32))
    assert isinstance(model.rpn.anchor_generator, Anchors)
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


# ---- independence


def test_one_by_one_and_in_a_batch_of_any_images_agree():
    model = lively(detector())
    images = make_images((48, 64), (90, 50), (48, 64), (33, 200))
    together = model(images)
    alone = [model([image])[0] for image in images]
    assert any(len(found["scores"]) for found in alone)
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_training_maps_of_a_mixed_batch_are_those_of_each_image():
    """No padding reaches the backbone: where an image is, its maps are what they are without the others."""
    model = detector().double()
    images = [model.normalize(image) for image in make_images((48, 64), (64, 40), (48, 64))]
    together = model._maps(images)
    for place, image in enumerate(images):
        for mixed, own in zip(together.values(), model._maps([image]).values(), strict=True):
            height, width = own.shape[2:]
            torch.testing.assert_close(mixed[place, :, :height, :width], own[0], atol=1e-9, rtol=0)
            assert not mixed[place, :, height:].any()


# ---- prediction


@pytest.mark.parametrize("size", [(64, 33), (47, 96)])
def test_a_prediction_lies_within_its_image(size):
    model = lively(detector())
    image = Image.fromarray(make_images(size)[0].permute(1, 2, 0).numpy())
    found = model.predict(image, score_threshold=0.0)
    assert len(found) > 0
    assert found.size == size
    assert found.masks.shape == (len(found), *size)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array([size[1], size[0]] * 2) + 1e-3).all()
    assert (np.diff(found.scores) <= 0).all()
    content = json.loads(json.dumps(found.to_dict()))
    assert (content["height"], content["width"]) == size
    assert {row["category_id"] for row in content["objects"]} <= {1, 2}
    assert found.draw(image).size[0] % size[1] == 0  # enlarged by a whole number
    assert len(found.summary()) > 3
    with pytest.raises(ValueError, match="give the same"):
        found.draw(Image.new("RGB", (7, 7)))


def test_a_threshold_keeps_what_is_sure():
    model = lively(detector()).train()
    image = make_images((60, 60))[0].permute(1, 2, 0).numpy()
    everything = model.predict(image, score_threshold=0.0)
    threshold = float(np.median(everything.scores))
    some = model.predict([image, image], score_threshold=threshold)
    assert model.training  # left as it was
    assert len(some[0]) == len(some[1]) == (everything.scores >= threshold).sum()
    nothing = model.predict(image, score_threshold=1.0)
    assert nothing.summary() == "nothing"
    assert nothing.to_dict()["objects"] == []
    assert nothing.draw(image).size == (720, 720)
    with pytest.raises(ValueError, match="score_threshold"):
        model.predict(image, score_threshold=2)


def test_significance_is_within_reach():
    model = detector(kwargs={"token_budget": 16})
    maps = significance_maps(model, torch.randn(1, 3, 64, 96))
    assert maps[0].shape == (1, 16, 24)
    assert all(significance.ndim == 3 for significance in maps)


# ---- weights


@pytest.mark.parametrize(("name", "masks"), [("sgformer_test", True), ("sgformer_test", False), ("resnet10t", True)])
def test_weights_file_gives_the_same_model_back(tmp_path, name, masks):
    heads = replace(HEADS, masks=masks)
    model = detector(name, heads=heads, category_ids=(3, 7))
    model.save(tmp_path / "w.safetensors", metrics={"val_box_ap": 0.5})
    again = tasks.load(tmp_path / "w.safetensors")
    assert not again.training
    for attribute in ("name", "classes", "category_ids", "preprocessing", "heads", "kwargs"):
        assert getattr(again, attribute) == getattr(model, attribute)
    images = make_images((48, 64))
    (one,), (other,) = model(images), again(images)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_starting_from_a_classifier(tmp_path):
    torch.manual_seed(3)
    classifier = Classifier(
        "sgformer_test", classes=["a", "b"], preprocessing=ClassifierPreprocessing(image_size=(64, 64))
    )
    classifier.save(tmp_path / "w.safetensors")
    model = detector()
    head = model.roi_heads.box_head.fc6.weight.clone()
    model.start_from(tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 64, 64)
    own, theirs = (significance_maps(m, x) for m in (model, classifier))
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert torch.equal(model.roi_heads.box_head.fc6.weight, head)


def test_starting_from_a_detector_of_other_classes(tmp_path):
    lively(detector()).save(tmp_path / "w.safetensors")
    same, other, boxes = (detector(), detector(classes=("a", "b", "c")), detector(heads=replace(HEADS, masks=False)))
    for model in (same, other, boxes):
        torch.nn.init.zeros_(model.roi_heads.box_head.fc6.weight)
        before = model.roi_heads.box_predictor.cls_score.weight.clone()
        model.start_from(tmp_path / "w.safetensors")
        assert model.roi_heads.box_head.fc6.weight.any()
        assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, before) == (model is other)
    with pytest.raises(WeightsError, match="does not fit"):
        detector(heads=replace(HEADS, channels=8)).start_from(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not a resnet10t"):
        detector("resnet10t").start_from(tmp_path / "w.safetensors")


def test_trained_batch_norms_stay_as_they_are(tmp_path):
    model = detector("resnet10t").train()
    assert not model.freeze_batch_norm
    model.save(tmp_path / "w.safetensors")
    model.start_from(tmp_path / "w.safetensors")  # and nobody calls `train`: Lightning does not
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_colours_tell_objects_of_one_class_apart():
    shown = []
    boxes = np.array([[2, 2, 20, 20], [30, 30, 60, 60]], np.float32)
    for ids in ((1, 1), (1, 2)):
        found = Detections((64, 64), boxes, ("a", "b"), np.array([0.9, 0.8], np.float32), ids)
        pixels = np.asarray(found.draw(Image.new("RGB", (64, 64))))
        shown.append({tuple(pixel) for pixel in pixels.reshape(-1, 3)} & set(COLOURS))
    assert [len(colours) for colours in shown] == [2, 2]
