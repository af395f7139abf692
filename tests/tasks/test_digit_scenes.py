"""The embedded data set keeps its promises: same everywhere, honest, consistent, and learnable."""

import pickle
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="the digit scenes need scikit-image")
pytest.importorskip("sklearn", reason="the digit scenes need scikit-learn")

from sgformer.tasks import digit_scenes
from sgformer.tasks.digit_scenes import DigitScenes


def same(a, b):
    arrays = ("boxes", "labels", "masks", "semantic")
    return (
        a.image.tobytes() == b.image.tobytes()
        and a.label == b.label
        and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    )


def test_a_scene_is_the_same_in_any_order_length_and_process():
    scenes = DigitScenes("train", 20, num_digits=(1, 3))
    forward = [scenes[i] for i in range(20)]
    backward = [scenes[i] for i in reversed(range(20))][::-1]
    elsewhere = pickle.loads(pickle.dumps(DigitScenes("train", 500, num_digits=(1, 3))))
    for i in range(20):
        assert same(forward[i], backward[i])
        assert same(forward[i], elsewhere[i])
    assert len({scene.image.tobytes() for scene in forward}) == 20


def test_another_seed_or_split_is_another_data_set():
    a, b, c = (DigitScenes(*key, seed=seed)[0] for key, seed in ((("train", 1), 0), (("train", 1), 1), (("val", 1), 0)))
    assert not same(a, b)
    assert not same(a, c)


def test_train_and_val_share_neither_digits_nor_photographs():
    train, val = ({d.tobytes() for c in digit_scenes._digits(s) for d in c} for s in ("train", "val"))
    assert not train & val
    assert len(train) + len(val) == 1797
    photographs = digit_scenes.PHOTOGRAPHS
    assert not set(photographs["train"]) & set(photographs["val"])
    train, val = ({p.tobytes() for p in digit_scenes._photographs(s)} for s in ("train", "val"))
    assert not train & val


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_ten_scenes_hold_every_label_once(split):
    labels = [scene.label for scene in DigitScenes(split, 40)]
    for start in range(0, 40, 10):
        assert sorted(labels[start : start + 10]) == list(range(10))
    assert labels[:10] != sorted(labels[:10])


@pytest.mark.parametrize(("size", "num_digits"), [(96, 1), ((64, 160), (0, 6)), ((33, 32), 3), ((224, 97), 12)])
def test_boxes_masks_and_semantic_map_agree(size, num_digits):
    scenes = DigitScenes("train", 25, size=size, num_digits=num_digits)
    height, width = (size, size) if isinstance(size, int) else size
    for scene in scenes:
        n = len(scene.labels)
        assert scene.image.mode == "RGB"
        assert scene.image.size == (width, height)
        assert scene.boxes.shape == (n, 4)
        assert scene.boxes.dtype == np.float32
        assert scene.labels.dtype == np.int64
        assert scene.masks.shape == (n, height, width)
        assert scene.masks.dtype == bool
        assert scene.semantic.shape == (height, width)
        assert scene.semantic.dtype == np.uint8
        assert scene.masks.sum(0).max(initial=0) <= 1  # what is covered is not visible
        semantic = np.zeros((height, width), np.uint8)
        for (left, top, right, bottom), mask, digit in zip(scene.boxes, scene.masks, scene.labels, strict=True):
            y, x = np.nonzero(mask)
            assert (left, top, right, bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            semantic[mask] = 1 + digit
        assert np.array_equal(scene.semantic, semantic)
        sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
        assert scene.label == (scene.labels[sides.prod(1).argmax()] if n else -1)


def test_the_number_of_digits_is_kept_and_varies():
    assert {len(scene.labels) for scene in DigitScenes("val", 60, num_digits=(0, 3))} == {0, 1, 2, 3}
    assert {len(scene.labels) for scene in DigitScenes("val", 30, num_digits=4)} == {4}


def test_digits_hide_at_most_the_stated_part_of_each_other(monkeypatch):
    alone, drawn = [], digit_scenes._paint

    def paint(region, ink, rng):
        alone.append(int((ink > 0.5).sum()))
        drawn(region, ink, rng)

    monkeypatch.setattr(digit_scenes, "_paint", paint)
    shares = []
    for scene in DigitScenes("train", 40, num_digits=6):
        shares += (scene.masks.sum((1, 2)) / alone).tolist()
        alone.clear()
    assert min(shares) >= 1 - digit_scenes.MAX_HIDDEN
    assert min(shares) < 1  # some do overlap


def test_digits_stand_out_from_what_surrounds_them():
    """The mean colour inside and around a digit differ clearly in nearly every scene."""
    contrasts = []
    for scene in DigitScenes("val", 100):
        left, top, right, bottom = scene.boxes[0].astype(int)
        pixels = np.asarray(scene.image, np.float32)[top:bottom, left:right]
        mask = scene.masks[0, top:bottom, left:right]
        contrasts.append(np.abs(pixels[mask].mean(0) - pixels[~mask].mean(0)).max())
    assert np.quantile(contrasts, 0.02) > 40


def test_learnable_and_generalises_from_train_to_val():
    """The nearest mean of the cropped masks already recognises most digits of other writers."""

    def crops(split, length):
        scenes = DigitScenes(split, length)
        features, labels = [], []
        for scene in scenes:
            box = tuple(scene.boxes[0].astype(int).tolist())
            crop = Image.fromarray(scene.masks[0]).convert("L").crop(box).resize((12, 12), Image.Resampling.BOX)
            features.append(np.asarray(crop, np.float32).ravel())
            labels.append(scene.label)
        return np.stack(features), np.array(labels)

    features, labels = crops("train", 400)
    centroids = np.stack([features[labels == digit].mean(0) for digit in range(10)])
    features, labels = crops("val", 200)
    nearest = ((features[:, None] - centroids) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() > 0.6


def test_indices_outside_the_data_set():
    scenes = DigitScenes("val", 3)
    assert len(scenes) == 3
    assert same(scenes[-1], scenes[2])
    for index in (3, -4):
        with pytest.raises(IndexError):
            scenes[index]
    with pytest.raises(IndexError):
        DigitScenes("val", 0)[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"split": "test"}, "test"),
        ({"length": -1}, "-1"),
        ({"seed": -2}, "-2"),
        ({"size": 16}, "32"),
        ({"size": (96, 8)}, "32"),
        ({"num_digits": (3, 1)}, r"\(3, 1\)"),
        ({"num_digits": -1}, "-1"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        DigitScenes(**{"split": "train", "length": 3, **settings})


@pytest.mark.parametrize(("missing", "load"), [("skimage.data", "_photographs"), ("sklearn.datasets", "_digits")])
def test_without_the_demo_packages_the_remedy_is_named(monkeypatch, missing, load):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'sgformer\[demo\]'"):
        getattr(digit_scenes, load).__wrapped__("train")
