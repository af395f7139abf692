"""Merging by regions, an option of the same models."""

import pytest
import timm
import torch

from backbone import fill
from sgformer import hold_significance
from sgformer.backbone.attention import SelfGuidedAttention
from sgformer.backbone.regional import RegionalAttention


def regional(**kwargs):
    model = timm.create_model("sgformer_test", num_classes=3, merging="regions", **kwargs)
    return fill.fill_(model.double().eval())


def test_the_papers_merging_is_the_default_and_all_other_weights_are_alike():
    paper, ours = timm.create_model("sgformer_test"), timm.create_model("sgformer_test", merging="regions")
    assert {type(m) for m in paper.modules() if isinstance(m, SelfGuidedAttention)} == {SelfGuidedAttention}
    shapes = [{k: v.shape for k, v in m.state_dict().items() if ".merge." not in k} for m in (paper, ours)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("size", [(32, 32), (97, 131), (64, 256)])
@pytest.mark.parametrize("budget", [None, 3, 16])
def test_any_size_and_budget(size, budget):
    model = regional(token_budget=budget)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = model(x)
    assert out.isfinite().all()
    torch.testing.assert_close(model(x[1:]), out[1:], rtol=1e-9, atol=1e-9)


def test_significance_guides_it():
    model, x = regional(), torch.randn(1, 3, 128, 128, dtype=torch.float64)
    maps = model.forward_significance(x)
    with hold_significance(model, maps):
        torch.testing.assert_close(model(x), model(x))
        measured = model(x)
    with hold_significance(model, [m.flip(-1) for m in maps]):
        assert (model(x) - measured).abs().max() > 1e-6


def test_a_budget_bounds_its_keys_and_is_reported():
    model, x = regional(token_budget=16), torch.randn(1, 3, 160, 160, dtype=torch.float64)
    for spending in model.forward_spending(x):
        assert 10 <= round(spending.keys.sum().item()) <= 16


def test_cells_of_equal_tokens_count_as_these_tokens_do():
    attn = fill.fill_(RegionalAttention(8, 2, group_sizes=(4, 2, 1), token_budget=9)).double()
    for f in attn.merge:
        torch.nn.init.constant_(f.weight, 1 / f.in_features)
        torch.nn.init.zeros_(f.bias)
    coarse = torch.randn(1, 2, 2, 8, dtype=torch.float64)
    x = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :, :8]  # (1, 8, 8, c)
    significance = torch.rand(1, 8, 8, dtype=torch.float64)
    q, _ = attn.in_proj(x).split((8, 8), -1)
    k, v = attn.kv(x).flatten(1, 2).split((8, 8), -1)
    q, k, v = (t.flatten(1, -2).unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    attn.proj = torch.nn.Identity()
    torch.nn.init.zeros_(attn.positional.weight)
    torch.nn.init.zeros_(attn.positional.bias)
    found = attn.plain(x, significance).flatten(1, 2)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, exact)


def test_it_begins_as_a_mean():
    model = timm.create_model("sgformer_test", merging="regions")
    for module in model.modules():
        if isinstance(module, RegionalAttention):
            for f in module.merge:
                torch.testing.assert_close(f.weight.sum(), torch.tensor(1.0))


def test_it_exports():
    model, x = regional(), torch.randn(1, 3, 64, 96, dtype=torch.float64)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x), rtol=1e-9, atol=1e-9)


def test_open_sizes_are_refused():
    model, x = regional(), torch.randn(1, 3, 128, 128, dtype=torch.float64)
    sizes = {"x": {2: torch.export.Dim("height", min=64, max=512)}}
    with pytest.raises(ValueError, match="one size"):
        torch.export.export(model, (x,), dynamic_shapes=sizes)


def test_an_unknown_merging_is_refused():
    with pytest.raises(ValueError, match="ranking, regions"):
        timm.create_model("sgformer_test", merging="places")
