"""Overlays are full size, truthful and readable without colour; sheets hold whatever they are given."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import sgformer  # noqa: F401  registers the models
from sgformer.explanations import Cell, combine, contact_sheet, overlay, significance_maps
from sgformer.explanations.render import INFERNO, _sign

LUMA = np.array([0.299, 0.587, 0.114])
GRAY = np.full((60, 90, 3), 90, np.uint8)


class Measures(nn.Module):
    """The least that has significance maps: two grids, and a part whose behaviour depends on its mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.ones(()))

    def forward_significance(self, x):
        x = self.drop(x * self.scale).mean(1)
        return [nn.functional.avg_pool2d(x, 4), nn.functional.avg_pool2d(x, 8)]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Measures()


@pytest.mark.parametrize("build", [Measures, Classifier])
def test_maps_come_from_evaluation_mode_and_leave_the_model_as_it_was(build):
    model = build().train()
    part = model.drop if build is Measures else model.backbone.drop
    part.eval()
    x = torch.rand(2, 3, 32, 48)
    maps = significance_maps(model, x)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 12), (2, 4, 6)]
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps)
    torch.testing.assert_close(maps[0], nn.functional.avg_pool2d(x.mean(1), 4))
    assert model.training
    assert not part.training


def test_a_model_without_maps_is_named():
    with pytest.raises(ValueError, match="Linear has no forward_significance"):
        significance_maps(nn.Linear(2, 2), torch.rand(1, 2))
    # The parts by themselves, without the model.
    features = timm.create_model("sgformer_test", features_only=True)
    with pytest.raises(ValueError, match="feature_cls='getter'"):
        significance_maps(features, torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(90, 60), (33, 47), (1, 1)])
def test_overlay_has_the_size_of_the_image(mode, size):
    image = Image.new("RGB", size, (120, 60, 30)).convert(mode)
    result = overlay(image, np.random.default_rng(0).random((5, 7)))
    assert result.shape == (size[1], size[0], 3)
    assert result.dtype == np.uint8


def test_overlay_is_brightest_where_the_map_is_highest():
    significance = np.zeros((6, 9), np.float32)
    significance[1, 7] = 1
    luma = overlay(GRAY, significance) @ LUMA
    y, x = np.unravel_index(luma.argmax(), luma.shape)
    assert 10 <= y < 20
    assert 70 <= x < 80


def test_overlay_does_not_depend_on_the_scale_of_the_map():
    significance = np.random.default_rng(0).random((6, 9))
    np.testing.assert_array_equal(overlay(GRAY, significance), overlay(GRAY, 1e-4 * significance + 1e-4))


def test_a_map_without_differences_shows_the_image_in_gray():
    rounding = 1 + 1e-7 * np.random.default_rng(0).random((6, 9))
    np.testing.assert_array_equal(overlay(GRAY, rounding), GRAY)
    assert not combine([rounding], (60, 90)).any()


def test_combine_counts_every_map_the_same():
    left, right = np.zeros((4, 6)), np.zeros((8, 12))
    left[:, 0], right[:, -1] = 1, 500
    both = combine([left, right], (60, 90))
    assert both.shape == (60, 90)
    np.testing.assert_allclose(both[30, 0], both[30, -1], atol=0.02)
    with pytest.raises(ValueError, match="no map"):
        combine([], (60, 90))


def test_maps_that_are_none_are_refused():
    for bad in (np.zeros((1, 4, 4)), np.zeros(4), np.zeros((0, 4))):
        with pytest.raises(ValueError, match=r"\(H, W\)"):
            overlay(GRAY, bad)
    with pytest.raises(ValueError, match="NaN"):
        overlay(GRAY, np.full((4, 4), np.nan))


def test_colours_grow_lighter_step_by_step_and_are_inferno():
    assert INFERNO.shape == (256, 3)
    assert (np.diff(INFERNO @ LUMA) > 0).all()
    colormaps = pytest.importorskip("matplotlib", reason="to compare with").colormaps
    np.testing.assert_allclose(INFERNO, np.array(colormaps["inferno"].colors) * 255, atol=6)


def test_right_and_wrong_differ_in_shape_not_only_in_colour():
    right, wrong = (np.asarray(_sign(mark, 32).convert("RGBA").getchannel("A"), int) for mark in (True, False))
    assert (np.abs(right - wrong) > 128).mean() > 0.05
    right, wrong = (np.asarray(_sign(mark, 32).convert("L")) > 200 for mark in (True, False))
    assert (right != wrong).mean() > 0.05


def test_contact_sheet_holds_ragged_rows_unlike_sizes_and_long_captions():
    wide, tall = Image.new("RGB", (300, 30), "red"), Image.new("L", (20, 200), 255)
    rows = [
        [Cell(wide, "a caption far longer than its cell " * 9, True), Cell(tall, "two\nlines", False)],
        [Cell(GRAY)],
    ]
    plain = contact_sheet(rows)
    full = contact_sheet(rows, title="A title", headings=["one", "two"], legend=True)
    assert plain.mode == full.mode == "RGB"
    assert full.width >= plain.width
    assert full.height > plain.height
    assert plain.width < 600
    assert (np.asarray(plain)[-4:] == 255).all()  # nothing runs over the edge


@pytest.mark.parametrize("words", [{"legend": True}, {"note": "a note that is wider than one narrow image"}])
def test_what_stands_below_fits_on_a_narrow_sheet(words):
    narrow = np.asarray(contact_sheet([[Cell(GRAY)]], **words))
    wide = np.asarray(contact_sheet([[Cell(GRAY)] * 6], **words))
    assert narrow.shape[1] < wide.shape[1]
    below = len(narrow) - 24  # the image's own place differs in nothing but its neighbours
    np.testing.assert_array_equal(narrow[below:], wide[below:, : narrow.shape[1]])
    assert (narrow[:, -4:] == 255).all()


def test_contact_sheet_of_nothing():
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="at least one"):
            contact_sheet(rows)
