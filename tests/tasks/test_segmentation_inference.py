import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation import inference
from sgformer.tasks.segmentation.inference import InferenceOptions, class_map, prepare, scaled_size

PREPROCESSING = Preprocessing(image_size=(32, 32), interpolation="bilinear")


def picture(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


class Local(torch.nn.Module):
    """Logits that depend on a few pixels around each place, at full size; counts its calls and their sizes."""

    def __init__(self, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, classes, 3, padding=1)
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return self.conv(images)


def logits_of(model, image, size):
    """The plain way: all scores of the whole picture at once."""
    with torch.inference_mode():
        return interpolate(model(image[None]), size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("shorter_side", [None, 40, 100])
@pytest.mark.parametrize("at_once", [1, 5 * 61 * 7, 2**26])
def test_strips_give_what_the_whole_gives(monkeypatch, shorter_side, at_once):
    monkeypatch.setattr(inference, "_AT_ONCE", at_once)
    model, image = Local(), picture(83, 61)
    found = class_map(model, image, PREPROCESSING, InferenceOptions(shorter_side=shorter_side))
    seen = scaled_size((83, 61), shorter_side)
    assert set(model.seen) == {seen}
    scores = logits_of(model, prepare(image, PREPROCESSING, size=seen), (83, 61))
    assert found.shape == (83, 61)
    assert (found == scores.argmax(0).numpy()).mean() > 0.999  # rounding may turn a near tie


@pytest.mark.parametrize("window", [64, 200, None])
def test_a_window_over_the_whole_picture_changes_nothing(window):
    model, image = Local(), picture(64, 50)
    found = class_map(model, image, PREPROCESSING, InferenceOptions(window=window))
    assert (found == class_map(model, image, PREPROCESSING, InferenceOptions())).all()
    assert set(model.seen) == {(64, 50)}


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("at_once", [1, 2**26])
def test_windows_are_averaged(monkeypatch, overlap, at_once):
    monkeypatch.setattr(inference, "_AT_ONCE", at_once)
    model, image = Local(), picture(75, 101)
    found = class_map(model, image, PREPROCESSING, InferenceOptions(window=32, overlap=overlap))
    assert set(model.seen) == {(32, 32)}
    # The plain way: sums and counts of the whole picture.
    prepared = prepare(image, PREPROCESSING, size=(75, 101))
    sums, counts = torch.zeros(5, 75, 101), torch.zeros(75, 101)
    for top in inference._starts(75, 32, overlap):
        for left in inference._starts(101, 32, overlap):
            place = ..., slice(top, top + 32), slice(left, left + 32)
            with torch.inference_mode():
                sums[place] += model(prepared[None][place])[0]
            counts[place] += 1
    assert counts.min() >= 1
    assert (found == (sums / counts).argmax(0).numpy()).mean() > 0.999


def test_windows_cover_evenly():
    for length, window, overlap in [(100, 32, 0.25), (33, 32, 0.0), (6000, 512, 0.25), (64, 32, 0.0)]:
        starts = inference._starts(length, window, overlap)
        gaps = np.diff(starts)
        assert starts[0] == 0
        assert starts[-1] == length - window
        assert gaps.max() <= max(1, int(window * (1 - overlap)))
        assert gaps.max() - gaps.min() <= 1


def test_scales_and_mirrors_average_probabilities():
    model, image = Local(), picture(64, 48)
    options = InferenceOptions(scales=[0.75, 1.5], flip=True)
    found = class_map(model, image, PREPROCESSING, options)
    total = torch.zeros(5, 64, 48)
    for scale in options.scales:
        prepared = prepare(image, PREPROCESSING, size=scaled_size((64, 48), None, scale))
        total += logits_of(model, prepared, (64, 48)).softmax(0)
        total += logits_of(model, prepared.flip(-1), (64, 48)).flip(-1).softmax(0)
    assert (found == total.argmax(0).numpy()).mean() > 0.999


def test_large_pictures_go_through_in_windows(monkeypatch):
    monkeypatch.setattr(inference, "MAX_WHOLE", 600 * 600)
    model = Local()
    strips = []

    def progress(rows):
        strips.extend(rows)
        return rows

    found = class_map(model, picture(700, 620), PREPROCESSING, InferenceOptions(), progress=progress)
    assert found.shape == (700, 620)
    assert set(model.seen) == {(512, 512)}
    assert [row for strip in strips for row in strip] == list(range(700))
    assert len(strips) > 1


def test_memory_follows_the_width(monkeypatch):
    """Of a tall picture only a few rows of windows are ever kept."""
    monkeypatch.setattr(inference, "_AT_ONCE", 5 * 64 * 8)
    kept = []
    grow = inference._Rows._move

    def watched(self, start, stop):
        kept.append(stop - start)
        grow(self, start, stop)

    monkeypatch.setattr(inference._Rows, "_move", watched)
    class_map(Local(), picture(1000, 64), PREPROCESSING, InferenceOptions(window=32))
    assert len(kept) > 20
    assert max(kept) <= 3 * 32


def test_small_pictures_are_enlarged():
    model = Local()
    assert class_map(model, picture(10, 20), PREPROCESSING, InferenceOptions()).shape == (10, 20)
    assert model.seen == [(32, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"overlap": 1.0}, "overlap"), ({"scales": []}, "one factor or more"), ({"window": 8}, "too small")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceOptions(**settings)
