"""Blocks by the kernels in C++: the numbers of the plain definition, and no layer that is left out unasked."""

import collections

import pytest
import timm
import torch

import sgformer
from backbone import fill
from sgformer.fast import explain_ways, native, use_kernels
from sgformer.fast.conditions import LAYERS
from sgformer.ops.native import library


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(library, "_library", None)
    if objection := use_kernels().objection:
        pytest.skip(objection)


def model_and_images(**options):
    model = timm.create_model(
        "sgformer_test", channels=(32, 32, 64, 64), num_heads=(2, 2, 2, 4), num_classes=7, **options
    ).eval()
    fill.fill_(model)
    x = torch.randn(2, 3, 90, 75)
    return model, x


@pytest.mark.parametrize("options", [{}, {"token_budget": 5}])
def test_a_model_computes_what_is_defined(options, monkeypatch):
    model, x = model_and_images(**options)
    with torch.no_grad(), sgformer.plain():
        maps = model.double().forward_significance(x.double())
        exact = model(x.double())
        model.float()
    order = iter(maps)
    # Rounding may swap tokens in a ranking, so all rank by the maps in float64; a hook would keep the kernels away.
    rank = native.rank_tokens
    monkeypatch.setattr(native, "rank_tokens", lambda significance: rank(next(order)))
    with torch.no_grad():
        ways = collections.Counter(taken.way for taken in explain_ways(model, x))
        assert ways["native"] == 7
        order = iter(maps)
        torch.testing.assert_close(model(x).double(), exact, rtol=1e-4, atol=1e-4)


def test_significance_is_what_is_measured():
    model, x = model_and_images()
    with torch.no_grad():
        found = model.forward_significance(x)[0]
        with sgformer.plain():
            expected = model.double().forward_significance(x.double())[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_layer_that_is_hooked_or_replaced_has_its_say(stage):
    model, x = model_and_images()
    with torch.no_grad():
        for index in range(len(model.stages[stage].blocks)):
            block = model.stages[stage].blocks[index]
            for name, child in block.named_modules():
                if not name or type(child) is torch.nn.ModuleList:
                    continue
                handle = child.register_forward_hook(lambda *_: None)
                taken = {t.segment: t for t in explain_ways(model, x)}
                handle.remove()
                assert taken[f"stages.{stage}.blocks.{index}"].way != "native", name
            assert {t.segment: t for t in explain_ways(model, x)}[f"stages.{stage}.blocks.{index}"].way == "native"


def test_gradients_and_large_maps_are_for_others(monkeypatch):
    model, x = model_and_images()
    assert "native" not in {taken.way for taken in explain_ways(model, x)}
    monkeypatch.setattr(native, "MAX_HIDDEN", 0)
    with torch.no_grad():
        assert "native" not in {taken.way for taken in explain_ways(model, x)}
    assert all("native" in kind.ways for kind in LAYERS if kind.__name__.endswith("Block"))


def test_weights_of_another_kind_are_for_others():
    model, x = model_and_images()
    blocks = model.stages[0].blocks
    blocks[0].mlp.fc1.weight.data = blocks[0].mlp.fc1.weight.data.t().contiguous().t()
    blocks[1].double()
    with torch.no_grad():
        y = model.stem(x).permute(0, 2, 3, 1).contiguous()
        assert "contiguous" in native.why_not(blocks[0], y)
        assert "float32" in native.why_not(blocks[1], y, y.mean(-1))
