import json

import numpy as np
import pytest
import torch

pytest.importorskip("pycocotools", reason="COCO's metric needs pycocotools")

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sgformer  # noqa: F401
from coco_files import make_coco
from sgformer.engine import recipe, weights
from sgformer.engine.optim import create_optimizer
from sgformer.tasks.backbones import ModelOptions
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.evaluation import NUMBERS, CocoMetric, evaluate, make_report
from sgformer.tasks.detection.mistakes import mistakes
from sgformer.tasks.detection.options import DataOptions
from sgformer.tasks.detection.task import Recipe, build, create_detector
from small_detectors import HEADS, SIZE, detector, lively


def options(root, **kwargs):
    return DataOptions(root=str(root), shorter_side=SIZE[0], max_side=SIZE[1], workers=0, batch_size=4, **kwargs)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco"))


# ---- learning


@pytest.mark.parametrize("indices", [(3,), (2,), (0, 2, 3)])  # empty; a crowd alone; both beside another
def test_images_without_objects_can_be_learned_from(root, indices):
    _, data = build(Recipe(model=ModelOptions(name="sgformer_test"), heads=HEADS, data=options(root)))
    dataset = data.dataset("train")
    images, targets = zip(*(dataset[index] for index in indices), strict=True)
    model = detector().train()
    losses = model(images, targets)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---- recipes and evaluation


PACKAGED = [name for name in recipe.names() if name.startswith("detection/")]


@pytest.mark.parametrize("name", PACKAGED)
def test_every_recipe_makes_a_detector(name):
    parsed = recipe.parse(recipe.find(name), Recipe)
    with torch.device("meta"):  # no memory, and no time for initial values
        model = create_detector(parsed, classes=["a", "b"], category_ids=[1, 2])
    assert model.roi_heads.has_mask() == parsed.heads.masks
    assert create_optimizer(model, parsed.optim)
    if parsed.model.weights:  # those that ship
        assert weights.read_metadata(parsed.model.weights)["model"]["name"] == parsed.model.name


def test_report_is_about_all_images_and_classes(root):
    model = lively(detector(category_ids=(3, 7)))
    report = evaluate(model, options(root))
    assert report.num_images == 3  # the empty one and the crowd among them
    assert report.num_objects == 2
    assert [(row.name, row.num_objects) for row in report.classes] == [("disc", 1), ("bar", 1)]
    assert report.box["ap_large"] is None  # there is no such object
    json.dumps(report.to_dict(), allow_nan=False)
    heads, rows = report.to_table()
    assert all(len(row) == len(heads) for row in rows)
    assert model.preprocessing.image_size == SIZE
    with pytest.raises(ValueError, match="the model knows a, b"):
        evaluate(detector(classes=("a", "b")), options(root))


# ---- the metric, against pycocotools by itself


def guesses(target, rng):
    """Objects moved a little, some left out, some named wrongly, some that are not there."""
    height, width = target["masks"].shape[1:]
    boxes, labels, scores, masks = [], [], [], []
    for box, label in [*zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True), ([5, 5, 30, 20], 1)]:
        for _ in range(rng.integers(0, 3)):
            left, top, right, bottom = (np.array(box) + rng.integers(-3, 4, 4)).tolist()
            left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
            mask = np.zeros((height, width), bool)
            mask[int(top) : int(bottom), int(left) : int(right)] = True
            mask &= rng.random((height, width)) < 0.95
            boxes.append([left, top, right, bottom])
            labels.append(label if rng.random() < 0.8 else 3 - label)
            scores.append(rng.random())
            masks.append(mask)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "masks": torch.tensor(np.array(masks).reshape(-1, height, width)),
    }


def by_pycocotools(file, found, targets, kind, ids):
    truth = COCO(str(file))
    results = []
    for one, target in zip(found, targets, strict=True):
        for box, label, score, mask in zip(*(one[k] for k in ("boxes", "labels", "scores", "masks")), strict=True):
            left, top, right, bottom = box.tolist()
            rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            results.append(
                {
                    "image_id": target["image_id"],
                    "category_id": ids[int(label) - 1],
                    "score": score.item(),
                    **({"segmentation": rle} if kind == "segm" else {"bbox": [left, top, right - left, bottom - top]}),
                }
            )
    judge = COCOeval(truth, truth.loadRes(results), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    precision = judge.eval["precision"][:, :, :, 0, -1]
    return judge.stats, precision


@pytest.mark.parametrize("masks", [True, False])
def test_numbers_are_those_of_pycocotools(tmp_path, masks):
    """With crowds, images without objects, images in which nothing is found, and wrong names."""
    root = make_coco(tmp_path / "coco", num_val=14)
    module = DetectionData(options(root), masks=True)
    dataset = module.dataset("val")
    targets = [dataset[index][1] for index in range(len(dataset))]
    rng = np.random.default_rng(0)
    found = [guesses(target, rng) for target in targets]
    metric = CocoMetric(masks=masks)
    for start in range(0, len(found), 4):
        metric.update(found[start : start + 4], targets[start : start + 4])
    report = make_report(metric, module.classes)
    assert report.num_images == 14
    assert report.num_objects == 24
    for ours, kind, column in ((report.box, "bbox", "box_ap"), (report.mask, "segm", "mask_ap")):
        if ours is None:
            assert not masks
            continue
        file = root / "annotations" / "instances_val.json"
        stats, precision = by_pycocotools(file, found, targets, kind, module.category_ids)
        assert 0.1 < stats[0] < 0.9
        expected = [None if value < 0 else pytest.approx(value, abs=1e-6) for value in stats]
        assert [ours[name] for name in NUMBERS] == expected
        classes = precision.mean((0, 1))
        assert [getattr(row, column) for row in report.classes] == pytest.approx(classes.tolist(), abs=1e-6)
        curves = report.curves["Boxes" if kind == "bbox" else "Masks"]
        assert list(curves)[::5] == ["IoU 0.50", "IoU 0.75"]
        np.testing.assert_allclose(np.array(list(curves.values())), precision.mean(2), atol=1e-6)


def test_processes_with_unequal_shares_are_put_together(tmp_path, monkeypatch):
    root = make_coco(tmp_path / "coco", num_val=7)
    module = DetectionData(options(root), masks=True)
    targets = [module.dataset("val")[index][1] for index in range(7)]
    rng = np.random.default_rng(0)
    found = [guesses(target, rng) for target in targets]
    alone, first, second, third = (CocoMetric(masks=True) for _ in range(4))
    alone.update(found, targets)
    first.update(found[:5], targets[:5])
    second.update(found[5:], targets[5:])
    expected = make_report(alone, module.classes).to_dict()
    states = [metric.objects for metric in (first, second, third)]  # the third has seen none

    def gather(parts, own):
        parts[:] = states

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for metric in (first, third):
        assert make_report(metric, module.classes).to_dict() == expected


def test_misses_and_false_alarms_are_told_apart():
    target = {
        "boxes": torch.tensor([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 90, 40]], dtype=torch.float32),
        "labels": torch.tensor([1, 2, 1]),
        "iscrowd": torch.tensor([0, 0, 1]),
    }
    boxes = torch.tensor(
        [
            [0, 0, 10, 9],  # right
            [1, 0, 10, 10],  # the same object again
            [20, 20, 40, 40],  # the wrong name
            [60, 10, 70, 20],  # within a crowd
            [60, 10, 70, 20],  # within a crowd of others
        ],
        dtype=torch.float32,
    )
    assert mistakes(boxes, torch.tensor([1, 1, 1, 1, 2]), target) == ([1, 2, 4], [1])
    assert mistakes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), target) == ([], [0, 1])


def test_the_worst_images_are_drawn(root):
    model = lively(detector())
    shown = evaluate(model, options(root), num_worst=12).worst
    assert shown
    for (image,), seen, caption in shown:
        assert image.mode == "RGB"
        assert seen.shape[1:] == model.preprocessing.size((image.height, image.width))
        assert "miss" in caption


def test_nothing_found_and_nothing_there():
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 8, 8, dtype=torch.bool),
    }
    target = {**nothing, "iscrowd": torch.zeros(0, dtype=torch.int64), "area": torch.zeros(0)}
    for metric in (CocoMetric(masks=True), CocoMetric(masks=False)):
        assert make_report(metric, ("a",)).num_images == 0
        metric.update([nothing], [target])
        report = make_report(metric, ("a",))
        assert report.num_images == 1
        assert report.box["ap"] is None
        json.dumps(report.to_dict(), allow_nan=False)
