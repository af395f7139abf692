"""Rare classes: weights in the loss, images drawn more often; and images that turn out to be unreadable."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from class_folders import make_class_folders
from mask_folders import CLASSES, IGNORE, make_mask_folders
from sgformer.engine.sampling import EpochSampler
from sgformer.tasks.backbones import ModelOptions
from sgformer.tasks.balance import class_weights, draw_weights
from sgformer.tasks.classification import task as classification
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.decoders import HeadOptions
from sgformer.tasks.errors import DataError
from sgformer.tasks.loading import Batch
from sgformer.tasks.segmentation import task as segmentation
from sgformer.tasks.segmentation.options import DataOptions as MaskOptions


def test_balanced_weights_are_those_of_scikit_learn():
    weight = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat([0, 1, 2], [1, 5, 14])
    expected = weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights("balanced", "abc", np.bincount(labels)) == pytest.approx(expected)
    assert class_weights("balanced", "abc", [4, 0, 12]) == pytest.approx([2, 0, 2 / 3])
    assert class_weights({"b": 3}, "abc", [0, 0, 0]) == [1, 3, 1]
    assert class_weights(None, "abc", [1, 1, 1]) is None
    for wrong in ({"d": 1.0}, {"a": -1.0}, dict.fromkeys("abc", 0.0), {"a": float("nan")}):
        with pytest.raises(DataError, match=r"loss\.weights"):
            class_weights(wrong, "abc", [1, 1, 1])


def test_images_are_drawn_so_that_classes_come_equally_often():
    holds = np.zeros((60, 3), int)
    holds[:50, 0], holds[50:58, 1], holds[58:, 2] = 1, 1, 1
    sampler = EpochSampler(60, batch_size=10, seed=1, weights=draw_weights(holds).tolist())
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        drawn = Counter(int(holds[draw.index].argmax()) for draw in epochs[-1])
        assert all(abs(drawn[kind] - 20) <= 1 for kind in range(3))
        assert len({draw.seed for draw in epochs[-1]}) == 60  # varied anew, where it comes again
        # Rounded down or up: 2 images share 20 places.
        assert Counter(draw.index for draw in epochs[-1] if draw.index >= 58) == {58: 10, 59: 10}
    assert epochs[0] != epochs[1]
    sampler.set_epoch(1)
    assert list(sampler) == epochs[1]
    # Two processes share what one draws.
    parts = []
    for rank in range(2):
        part = EpochSampler(60, batch_size=5, seed=1, rank=rank, num_processes=2, weights=draw_weights(holds).tolist())
        part.set_epoch(1)
        parts.append([draw.index for draw in part])
    together = [index for i in range(0, 30, 5) for part in parts for index in part[i : i + 5]]
    assert together == [draw.index for draw in epochs[1]]


def test_images_with_several_classes_or_none():
    weights = draw_weights([[1, 0], [1, 0], [1, 0], [1, 1], [0, 0]])
    assert weights.tolist() == pytest.approx([0.25, 0.25, 0.25, 1.25, 0.5])


MODEL = ModelOptions(name="sgformer_test")


def unequal(tmp_path):
    root = make_class_folders(tmp_path, num_train=6, num_val=2)
    for number in range(4):
        (root / "train" / "red" / f"{number}.png").unlink()
    return root


def test_classification(tmp_path):
    root = unequal(tmp_path)
    options = DataOptions(root=str(root), image_size=32, batch_size=14, workers=0, balanced=True)
    recipe = classification.Recipe(model=MODEL, data=options)
    recipe.loss.weights = "balanced"
    task, data = classification.build(recipe)
    assert "loss weights: blue 0.778, green 0.778, red 2.33" in str(data)
    assert "drawn in an epoch, times: blue 0.778, green 0.778, red 2.33" in str(data)
    batch = next(iter(data.train_dataloader()))
    assert min(np.bincount(batch.targets)) >= 4
    task.eval()
    with torch.no_grad():
        expected = cross_entropy(
            task.model(task.model.normalize(batch.images)),
            batch.targets,
            torch.tensor([7 / 9, 7 / 9, 7 / 3]),
            label_smoothing=0.1,
        )
        assert task.loss(batch) == pytest.approx(float(expected), rel=1e-5)
    assert "weights" not in task.state_dict()


def masks(tmp_path):
    """Sky in all images, grass in three, brick in one."""
    root = make_mask_folders(tmp_path)
    for i, path in enumerate(sorted((root / "annotations/train").iterdir())):
        mask = np.array(Image.open(path))
        mask[(mask == 2) & (i > 0)] = 0
        mask[(mask == 1) & (i > 2)] = 0
        Image.fromarray(mask).save(path)
    return root


def prepared(root, **data):
    options = MaskOptions(root=str(root), image_size=32, batch_size=6, workers=0, **data)
    recipe = segmentation.Recipe(model=MODEL, data=options, head=HeadOptions(name="semantic_fpn", channels=64))
    recipe.loss.weights = "balanced"
    return segmentation.build(recipe)


def test_segmentation(tmp_path):
    task, data = prepared(masks(tmp_path), balanced=True)
    pixels = np.bincount(
        np.concatenate([mask.ravel() for _, mask in (data.images("train")[i] for i in range(6))]), minlength=256
    )[:3]
    assert task.weights is not None
    assert task.weights.tolist() == pytest.approx((pixels.sum() / (3 * pixels)).tolist())
    assert "loss weights: sky" in str(data)
    assert "drawn in an epoch, times: sky 1, grass" in str(data)
    drawn = Counter(draw.index for draw in data.train_dataloader().sampler)
    assert drawn[0] >= 2
    images, targets = torch.randint(0, 256, (2, 3, 32, 32)), torch.randint(0, 3, (2, 32, 32))
    targets[:, :4] = IGNORE
    task.eval()
    with torch.no_grad():
        expected = sum(
            weight * cross_entropy(logits, targets, task.weights, ignore_index=IGNORE)
            for weight, logits in zip((1, 0.4), task.model(task.model.normalize(images), auxiliary=True), strict=False)
        )
        assert task.loss(Batch(images, targets)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("spoiled", ["cut off", "gone", "mask cut off", "mask of another size"])
def test_segmentation_goes_on_without_what_was_damaged_later(tmp_path, spoiled):
    root = make_mask_folders(tmp_path)
    task, data = prepared(root, max_unreadable=0.5)
    assert len(CLASSES) == len(data.classes)
    for split in ("train", "val"):
        path = root / ("annotations" if "mask" in spoiled else "images") / split / "1.png"
        if spoiled == "gone":
            path.unlink()
        elif "size" in spoiled:
            Image.new("L", (7, 7)).save(path)
        else:
            path.write_bytes(path.read_bytes()[:-40] if "mask" not in spoiled else path.read_bytes()[:60])
    batch = next(iter(data.train_dataloader()))
    assert len(batch.images) == len(batch.targets) == 5
    assert [bad.path.endswith("train/1.png") for bad in batch.unreadable] == [True]
    (judged,) = data.val_dataloader()
    assert (len(judged.images), len(judged.targets), len(judged.unreadable)) == (2, 2, 1)
    # The head normalizes over a batch; one image that is left goes twice, none is a loss of zero.
    one = Batch(batch.images[:1], batch.targets[:1])
    assert torch.isfinite(task.loss(one))
    none = task.loss(Batch(batch.images[:0], batch.targets[:0]))
    none.backward()
    assert none.item() == 0


@pytest.mark.parametrize("task", [classification, segmentation])
def test_shares_and_rates_that_mean_nothing_are_refused(task):
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"loss\.label_smoothing .* is outside \[0, 1\]"):
            replace(task.Recipe().loss, label_smoothing=share)
    with pytest.raises(ValueError, match="lr must be above 0"):
        replace(task.Recipe().optim, lr=float("inf"))
