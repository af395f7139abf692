"""Images of the spending are full size and true: each token in its band's colour, each key counted once."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import sgformer  # noqa: F401  registers the models
from sgformer.explanations import (
    explain_image,
    keys_by_region,
    keys_image,
    render,
    significance_maps,
    spending_image,
    spending_maps,
    write_page,
)
from sgformer.explanations.explanation import VIEWS
from sgformer.explanations.spending import BAND_COLOURS, band_colours, describe_spending

LUMA = np.array([0.299, 0.587, 0.114])
GRAY = np.full((60, 90, 3), 128, np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("sgformer_test", num_classes=3)


@pytest.fixture(scope="module")
def explanation(model):
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8)
    return explain_image(model, image, torch.randn(1, 3, 98, 147))


def test_bands_differ_in_lightness_and_finer_is_lighter():
    lightness = np.array(BAND_COLOURS) @ LUMA
    assert (np.diff(lightness) < -60).all()
    assert list(band_colours([[28, 196, 56]]).items()) == list(zip((28, 56, 196), BAND_COLOURS, strict=True))
    assert list(band_colours([[1, 2]]).values()) == [BAND_COLOURS[0], BAND_COLOURS[2]]
    assert list(band_colours([[7]]).values()) == [BAND_COLOURS[0]]


def test_each_pixel_has_the_colour_of_its_token():
    sizes = np.array([[1, 2, 2], [2, 2, 1]])
    drawn = spending_image(np.zeros((60, 90, 3), np.uint8), sizes, opacity=1.0)
    for i in range(2):
        for j in range(3):
            centre = drawn[30 * i + 15, 30 * j + 15]
            assert tuple(centre) == (BAND_COLOURS[0] if sizes[i, j] == 1 else BAND_COLOURS[2])
    white = (drawn == 255).all(-1)
    assert white[10, 28:32].any()  # a line between the two bands
    assert not white[10, 55:65].any()  # none between tokens of the same
    assert not white[0].any() or white[0].mean() < 0.1  # none around the image


def test_tokens_beyond_the_edge_are_not_squeezed_in():
    sizes = np.array([[1, 2, 2]])
    drawn = spending_image(np.zeros((20, 100, 3), np.uint8), sizes, opacity=1.0, covered=(1.0, 0.5))
    assert tuple(drawn[10, 60]) == BAND_COLOURS[0]  # two thirds of what is covered are the first token
    assert tuple(drawn[10, 72]) == BAND_COLOURS[2]


@pytest.mark.parametrize("tokens", [(4, 6), (7, 11), (1, 1), (25, 38)])
@pytest.mark.parametrize("regions", [(2, 3), (6, 9), (1, 1)])
@pytest.mark.parametrize("covered", [(1.0, 1.0), (0.93, 0.81)])
def test_no_key_is_lost_or_counted_twice(tokens, regions, covered):
    keys = np.random.default_rng(0).random(tokens)
    counted = keys_by_region(keys, regions, covered=covered)
    assert counted.shape == regions
    assert counted.min() >= 0
    np.testing.assert_allclose(counted.sum(), keys.sum())


def test_a_region_receives_the_keys_of_its_own_tokens():
    keys = np.zeros((4, 6))
    keys[3, 0] = 5
    counted = keys_by_region(keys, (2, 3))
    assert counted[1, 0] == 5
    assert counted.sum() == 5


@pytest.mark.parametrize("size", [(33, 47), (300, 60), (40, 400)])
def test_images_have_the_size_of_the_image(size):
    image, keys = np.zeros((*size, 3), np.uint8), np.random.default_rng(0).random((5, 7))
    assert spending_image(image, (keys > 0.5) + 1).shape == (*size, 3)
    assert keys_image(image, keys).shape == (*size, 3)


def test_a_batch_is_refused():
    for function in (lambda m: spending_image(GRAY, m), lambda m: keys_by_region(m, (2, 2))):
        with pytest.raises(ValueError, match=r"\(H, W\); got shape \(1, 4, 4\)"):
            function(np.ones((1, 4, 4)))


def test_spending_is_asked_in_evaluation_mode_of_a_model_that_can_tell(model):
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model.train()

    spent = spending_maps(Holds(), torch.randn(2, 3, 64, 96))
    assert model.training
    model.eval()
    assert [tuple(s.group_size.shape) for s in spent] == [(2, 16, 24), (2, 8, 12), (2, 4, 6)]
    with pytest.raises(ValueError, match="Linear has no forward_spending"):
        spending_maps(nn.Linear(2, 2), torch.rand(1, 2))


def test_an_explanation_goes_through_the_model_once(model, monkeypatch):
    calls = []
    measure = model.forward_significance
    monkeypatch.setattr(model, "forward_significance", lambda x: calls.append(1) or measure(x))
    explain_image(model, GRAY, torch.randn(1, 3, 64, 64))
    assert calls == [1]


def test_an_explanation_holds_what_the_model_says(model, explanation):
    assert [(p.stage, p.number) for p in explanation.pairs] == [(1, 1), (2, 1), (3, 1)]
    assert [p.covered for p in explanation.pairs] == [
        (98 / 100, 147 / 148),
        (98 / 104, 147 / 152),
        (98 / 112, 147 / 160),
    ]
    x = torch.randn(1, 3, 64, 96)
    again = explain_image(model, np.zeros((64, 96, 3), np.uint8), x)
    for pair, significance, spent in zip(
        again.pairs, significance_maps(model, x), spending_maps(model, x), strict=True
    ):
        np.testing.assert_array_equal(pair.significance, significance[0].numpy())
        np.testing.assert_array_equal(pair.group_size, spent.group_size[0].numpy())
        np.testing.assert_array_equal(pair.keys, spent.keys[0].numpy())
        bands = describe_spending(pair.group_size, pair.keys)
        assert len(bands) == len(band_colours(pair.group_size))
        assert sum(share for _, share, _ in bands) == pytest.approx(1)
        assert sum(keys for _, _, keys in bands) == pytest.approx(pair.keys.sum(), rel=1e-5)
    with pytest.raises(ValueError, match="give one image"):
        explain_image(model, GRAY, torch.randn(2, 3, 64, 64))


def test_pairs_of_a_deeper_model_are_numbered_within_their_stage():
    model = timm.create_model("sgformer_test", depths=(2, 4, 2, 1))
    pairs = explain_image(model, GRAY, torch.randn(1, 3, 64, 96)).pairs
    assert [(p.stage, p.number) for p in pairs] == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_every_view_is_as_large_as_the_image(explanation):
    for pair in explanation.pairs:
        for view in VIEWS:
            assert pair.draw(explanation.image, view).shape == (100, 150, 3)
    with pytest.raises(ValueError, match="choose one of significance, spending, keys"):
        explanation.pairs[0].draw(explanation.image, "mask")
    assert explanation.combined().shape == (100, 150, 3)
    assert explanation.summary().mode == "RGB"
    assert explanation.stage_grid(2).width > 900


def test_captions_of_a_portrait_are_shown_in_full(model, monkeypatch):
    drawn = []
    monkeypatch.setattr(render, "_cut", lambda words, font, width: drawn.append((words, font, width)) or words)
    portrait = np.zeros((320, 140, 3), np.uint8)
    explain_image(model, portrait, torch.randn(1, 3, 160, 70)).summary()
    assert any("yellow 28:1" in words for words, _, _ in drawn)
    assert all(font.getlength(words) <= width for words, font, width in drawn)


def test_a_page_needs_nothing_else_and_holds_every_map(explanation):
    names = ['a "quoted" </script><b>name', "second"]
    page = write_page(dict.fromkeys(names, explanation), title="<title> & more", notes={names[0]: "says cat"})
    assert "&lt;title&gt; &amp; more" in page
    assert page.count("</script>") == 1
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:|/)|url\(|@import|fetch\(""", page)
    data = json.loads(re.search(r"^const images = (.*);$", page, re.MULTILINE)[1])
    assert [image["name"] for image in data] == names
    assert data[0]["note"] == "says cat"
    assert all(set(pair["views"]) == set(VIEWS) for image in data for pair in image["pairs"])
    with pytest.raises(ValueError, match="at least one"):
        write_page({}, title="")


def test_every_button_of_a_page_works(explanation, tmp_path):
    if not (node := shutil.which("node")):
        pytest.skip("there is no node to run the page's script")
    (tmp_path / "page.html").write_text(write_page({"a": explanation, "b": explanation}, title="t"), "utf-8")
    command = [node, str(Path(__file__).with_name("page_check.js")), str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 9  # three pairs, three views; both images are the same one
