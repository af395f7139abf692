"""Prediction in strips: the numbers of the plain way, at any size, and no other way out of prediction on a CPU."""

import pytest
import torch

from backbone import fill
from sgformer.backbone.blocks import GlobalBlock
from sgformer.backbone.stem import Downsample, Stem
from sgformer.fast import conv_strips, strips
from sgformer.ops import pieces


@pytest.fixture
def in_strips(monkeypatch):
    """Everything is large, strips are of two rows or few, and what strips computed is counted."""
    monkeypatch.setattr(pieces, "MAX_WHOLE", 0)
    monkeypatch.setattr(strips, "MAX_HIDDEN", 0)
    calls = []
    plain = strips._add_mlp_
    monkeypatch.setattr(strips, "_add_mlp_", lambda *args: calls.append(1) or plain(*args))
    return calls


def block():
    return fill.fill_(GlobalBlock(8, torch.nn.Identity(), mlp_ratio=3.0, drop_path=0.5)).double().eval()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("strip_size", [1, 3 * 24 * 5, 2**20])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (3, 1), (4, 7), (7, 5), (11, 3)])
def test_any_strip_is_right(threads, strip_size, height, width, in_strips, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_SIZE", strip_size)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    model = block()
    expected = model(x)  # gradients are on, so it goes the plain way
    assert not in_strips
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert in_strips


def test_small_hidden_maps_are_whole_where_strips_do_not_pay(in_strips, monkeypatch):
    x, model = torch.randn(1, 3, 4, 8, dtype=torch.float64), block()
    for largest, taken in ((3 * 4 * 24, False), (3 * 4 * 24 - 1, True)):
        monkeypatch.setattr(strips, "MAX_HIDDEN", largest)
        with torch.no_grad():
            model(x)
        assert bool(in_strips) == taken


@pytest.mark.parametrize("budget", [None, 20])
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (97, 130), (260, 97)])
def test_models_compute_the_same(size, budget, in_strips, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_SIZE", 1000)
    monkeypatch.setattr(strips, "ATTENTION_STRIP_SIZE", 1000)
    monkeypatch.setattr(strips, "ROWS_OF_COARSE_TOKENS", 1)
    attentions, attend = [], strips._attend
    monkeypatch.setattr(strips, "_attend", lambda *a, **k: attentions.append(1) or attend(*a, **k))
    model = fill.model("sgformer_test", num_classes=5, token_budget=budget)
    x = fill.image("strips", 2, *size)
    expected = model(x).detach()
    assert not in_strips
    assert not attentions
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
        assert len(in_strips) == len(attentions) == 7
        maps = model.forward_significance(x)
        monkeypatch.setattr(pieces, "MAX_WHOLE", 2**30)
        torch.testing.assert_close(maps, model.forward_significance(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_significance_of_low_precision_is_as_precise(dtype, in_strips, monkeypatch):
    monkeypatch.setattr(strips, "ATTENTION_STRIP_SIZE", 1000)
    attention = fill.model("sgformer_test", num_classes=5).stages[0].blocks[0].attn
    x = torch.randn(1, 30, 33, attention.in_proj.in_features, dtype=torch.float64)
    with torch.no_grad():
        _, exact = attention(x)
        attention.to(dtype)
        _, fast = attention(x.to(dtype))
        monkeypatch.setattr(pieces, "MAX_WHOLE", 2**30)
        _, plain = attention(x.to(dtype))
    assert fast.dtype == plain.dtype == torch.float32
    assert (fast - exact).norm() <= 1.5 * (plain - exact).norm()


def test_low_precision_is_as_precise(in_strips, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_SIZE", 1000)
    x = torch.randn(1, 9, 10, 8, dtype=torch.float64)
    model = block()
    with torch.no_grad():
        exact = model(x)
        model.bfloat16()
        fast = model(x.bfloat16())
        monkeypatch.setattr(pieces, "MAX_WHOLE", 2**30)
        plain = model(x.bfloat16())
    assert (fast - exact).norm() <= 1.5 * (plain - exact).norm()


def test_training_and_autocast_go_the_plain_way(in_strips):
    model, x = block(), torch.randn(1, 4, 4, 8)
    model.float()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        model.train()(x)
    assert not in_strips


def test_the_input_stays_what_it_was(in_strips):
    model = fill.model("sgformer_test", num_classes=5)
    x = fill.image("strips", 1, 64, 96)
    before = x.clone()
    with torch.no_grad():
        first = model(x)
        assert torch.equal(model(x), first)
    assert torch.equal(x, before)


@pytest.mark.parametrize("strip_size", [1, 8 * 16 * 5, 2**20])
@pytest.mark.parametrize(("height", "width"), [(4, 5), (32, 32), (33, 47), (70, 9)])
@pytest.mark.parametrize("kind", [Stem, Downsample])
def test_chains_of_convolutions_in_strips_are_right(kind, height, width, strip_size, in_strips, monkeypatch):
    monkeypatch.setattr(conv_strips, "STRIP_SIZE", strip_size)
    layer = Stem(3, 8, grid_size=(8, 8)) if kind is Stem else Downsample(3, 8)
    layer = fill.fill_(layer).double().eval()
    x = torch.randn(2, height, width, 3, dtype=torch.float64).permute(0, 3, 1, 2)
    expected = layer(x)
    with torch.no_grad():
        plain = layer(x)
        for name in ("MIN_SIZE", "MIN_SIZE_KEPT"):
            monkeypatch.setattr(conv_strips, name, 0)
        calls = []
        chain = conv_strips.normed_convs
        monkeypatch.setattr(conv_strips, "normed_convs", lambda *args: calls.append(1) or chain(*args))
        fast = layer(x)
    assert calls
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-12)
    assert fast.stride() == expected.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chains_in_strips_are_as_precise(dtype, in_strips, monkeypatch):
    monkeypatch.setattr(conv_strips, "STRIP_SIZE", 1000)
    layer, x = fill.fill_(Downsample(4, 16)).double().eval(), torch.randn(1, 4, 40, 50, dtype=torch.float64)
    with torch.no_grad():
        exact = layer(x)
        layer.to(dtype)
        plain = layer(x.to(dtype))
        for name in ("MIN_SIZE", "MIN_SIZE_KEPT"):
            monkeypatch.setattr(conv_strips, name, 0)
        fast = layer(x.to(dtype))
    assert fast.dtype == dtype
    assert (fast - exact).norm() <= 1.5 * (plain - exact).norm()


@pytest.mark.parametrize(("num_images", "kept", "in_strips"), [(1, False, True), (1, True, False), (3, True, True)])
def test_chains_are_whole_where_memory_is_kept_and_they_are_not_very_large(num_images, kept, in_strips, monkeypatch):
    monkeypatch.setattr(conv_strips, "is_kept", lambda: kept)
    layer = Downsample(3, 8).eval()  # whose first map has 8 channels and 2^23.5 numbers an image
    with torch.no_grad():
        x = torch.zeros(num_images, 3, 1200, 1200)
        assert (conv_strips.why_not(layer, x) is None) is in_strips
