import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import grid_sample

from sgformer.tasks import windows
from sgformer.tasks.decoders import HeadOptions
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation import Segmenter
from sgformer.tasks.segmentation.model import class_map
from sgformer.tasks.windows import STRIDE, InferenceOptions, resize, scaled_size

PREPROCESSING = Preprocessing(image_size=(32, 32), interpolation="bilinear")


def make_image(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


class Local(torch.nn.Module):
    """Scores of cells that depend on a few pixels around each; keeps the sizes that it was asked for."""

    def __init__(self, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, classes, 5, padding=2, stride=STRIDE)
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return self.conv(images)


def prepare(pixels):
    """RGB pixels (height, width, 3) normalized, (3, height, width)."""
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (PREPROCESSING.mean, PREPROCESSING.std))
    return (image - mean) / std


def prepared(image, size):
    return prepare(resize(image, PREPROCESSING, size=size))


def scorer(model):
    return lambda pixels: model(prepare(pixels)[None])[0]


def enlarged(cells, seen, size):
    """The plain way: scores of the whole image at once, each between the centres of four cells."""
    (height, width), (rows, columns) = size, cells.shape[1:]
    # grid_sample() counts from -1 at the map's one edge to 1 at its other; the image may end before the map.
    y = (torch.arange(height) + 0.5) / height * seen[0] / (STRIDE * rows) * 2 - 1
    x = (torch.arange(width) + 0.5) / width * seen[1] / (STRIDE * columns) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return grid_sample(cells[None], grid[None], padding_mode="border", align_corners=False)[0]


def agree(found, scores):
    return (found == scores.argmax(0).numpy()).mean() > 0.999  # rounding may turn a near tie


@torch.inference_mode()
@pytest.mark.parametrize("shorter_side", [None, 40, 101])
@pytest.mark.parametrize("at_once", [1, 5 * 61 * 7, 2**26])
def test_strips_give_what_the_whole_gives(monkeypatch, shorter_side, at_once):
    monkeypatch.setattr(windows, "_AT_ONCE", at_once)
    model, image = Local(), make_image(83, 61)
    found = class_map(scorer(model), image, PREPROCESSING, InferenceOptions(shorter_side=shorter_side))
    seen = scaled_size((83, 61), shorter_side)
    assert model.seen == [seen]
    assert found.shape == (83, 61)
    assert agree(found, enlarged(model(prepared(image, seen)[None])[0], seen, (83, 61)))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sgformer_test", "swin_tiny_patch4_window7_224"])
def test_it_gives_what_the_logits_say(name):
    """Those of training, which `interpolate` enlarges; swin takes padded images."""
    head = HeadOptions(name="semantic_fpn", channels=64, auxiliary=0)
    model = Segmenter(name, classes="abcde", preprocessing=PREPROCESSING, head=head).eval()
    image = make_image(45, 70)
    assert agree(model.indices(image), model(prepared(image, (45, 70))[None])[0])


@pytest.mark.parametrize("window", [64, 200, None])
def test_a_window_over_the_whole_image_changes_nothing(window):
    model, image = Local(), make_image(64, 50)
    found = class_map(scorer(model), image, PREPROCESSING, InferenceOptions(window=window))
    assert (found == class_map(scorer(model), image, PREPROCESSING, InferenceOptions())).all()
    assert set(model.seen) == {(64, 50)}


@torch.inference_mode()
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("window", [32, 35])
@pytest.mark.parametrize("at_once", [1, 2**26])
def test_windows_are_averaged(monkeypatch, overlap, window, at_once):
    monkeypatch.setattr(windows, "_AT_ONCE", at_once)
    model, image = Local(), make_image(75, 101)
    found = class_map(scorer(model), image, PREPROCESSING, InferenceOptions(window=window, overlap=overlap))
    assert {side for size in model.seen for side in size} <= {window + more for more in range(STRIDE)}
    # The plain way: sums and counts of the whole image.
    whole = prepared(image, (75, 101))[None]
    sums, counts = torch.zeros(5, 19, 26), torch.zeros(19, 26)
    for rows in windows._parts(75, window, overlap):
        for columns in windows._parts(101, window, overlap):
            scores = model(whole[..., rows, columns])[0]
            top, left = rows.start // STRIDE, columns.start // STRIDE
            place = ..., slice(top, top + scores.shape[1]), slice(left, left + scores.shape[2])
            sums[place] += scores
            counts[place] += 1
    assert counts.min() >= 1
    assert agree(found, enlarged(sums / counts, (75, 101), (75, 101)))


@pytest.mark.parametrize(
    ("length", "window", "overlap"),
    [(100, 32, 0.25), (33, 32, 0.0), (150, 50, 0.0), (6000, 512, 0.25), (64, 32, 0.0), (101, 64, 0.9), (90, 90, 0.5)],
)
def test_windows_cover_evenly(length, window, overlap):
    parts = windows._parts(length, window, overlap)
    starts = np.array([part.start for part in parts])
    gaps = np.diff(starts)
    assert starts[0] == 0
    assert (starts % STRIDE == 0).all()
    assert parts[-1].stop == length
    assert all(part.stop - part.start == window for part in parts[:-1])
    assert window <= parts[-1].stop - parts[-1].start < window + STRIDE
    if len(gaps):
        assert gaps.max() <= max(STRIDE, window * (1 - overlap))
        assert gaps.max() - gaps.min() <= STRIDE


@torch.inference_mode()
def test_scales_and_mirrors_average_probabilities():
    model, image = Local(), make_image(64, 48)
    options = InferenceOptions(scales=[0.75, 1.5], flip=True)
    found = class_map(scorer(model), image, PREPROCESSING, options)
    total = torch.zeros(5, 64, 48)
    for scale in options.scales:
        seen = scaled_size((64, 48), None, scale)
        image_ = prepared(image, seen)[None]
        total += enlarged(model(image_)[0], seen, (64, 48)).softmax(0)
        total += enlarged(model(image_.flip(-1))[0], seen, (64, 48)).flip(-1).softmax(0)
    assert agree(found, total)


def test_a_mirrored_view_of_an_image_whose_cells_are_cut_off():
    """An image that is its own mirror image has a map that is."""
    half = np.asarray(make_image(40, 25))
    image = Image.fromarray(np.concatenate([half, half[:, ::-1]], 1))
    found = class_map(scorer(Local()), image, PREPROCESSING, InferenceOptions(window=32, flip=True))
    assert (found == found[:, ::-1]).all()


def test_large_images_go_through_in_windows(monkeypatch):
    monkeypatch.setattr(windows, "MAX_WHOLE", 600 * 600)
    model = Local()
    looked = []

    def progress(windows):
        for done, window in enumerate(windows, 1):
            yield window
            looked.append((done, len(windows), len(model.seen)))

    found = class_map(scorer(model), make_image(700, 620), PREPROCESSING, InferenceOptions(), progress=progress)
    assert found.shape == (700, 620)
    assert set(model.seen) == {(512, 512)}
    assert looked == [(1, 4, 1), (2, 4, 2), (3, 4, 3), (4, 4, 4)]


@pytest.mark.parametrize("options", [{}, {"scales": [0.5, 1.0], "flip": True}])
def test_memory_follows_the_width(monkeypatch, options):
    """Of a tall image only a few rows of windows are ever kept."""
    monkeypatch.setattr(windows, "_AT_ONCE", 5 * 64 * 8)
    kept = []
    scores = windows._View.scores

    def watched(self, rows):
        kept.append(STRIDE * self.sums.shape[1] * 1000 / self.height)
        return scores(self, rows)

    monkeypatch.setattr(windows._View, "scores", watched)
    class_map(scorer(Local()), make_image(1000, 64), PREPROCESSING, InferenceOptions(window=32, **options))
    assert len(kept) > 20
    assert max(kept) <= 4 * 32


def test_small_images_are_enlarged():
    model = Local()
    assert class_map(scorer(model), make_image(10, 20), PREPROCESSING, InferenceOptions()).shape == (10, 20)
    assert model.seen == [(32, 32)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"overlap": 1.0}, "overlap"), ({"scales": []}, "one factor or more"), ({"window": 8}, "too small")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceOptions(**settings)
