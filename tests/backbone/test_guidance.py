"""Guidance by significance, by a uniform order and by a random one: what each promises, and what none changes."""

import pytest
import timm
import torch

from backbone import fill
from sgformer.backbone.attention import SelfGuidedAttention
from sgformer.backbone.guidance import random_order, uniform_order
from sgformer.ops import spend_tokens

GUIDANCE = ["significance", "uniform", "random"]


@torch.no_grad()
def test_significance_is_the_default_to_the_last_bit():
    x = fill.picture("guidance", 2, 97, 130)
    assert torch.equal(
        fill.model("sgformer_test")(x), fill.model("sgformer_test", guidance="significance")(x)
    )


@torch.no_grad()
def test_each_kind_answers_otherwise_with_the_same_weights():
    model, x = fill.model("sgformer_test"), fill.picture("guidance", 2, 97, 130)
    names, answers = list(model.state_dict()), {}
    for guidance in GUIDANCE:
        model.set_guidance(guidance)
        built = fill.model("sgformer_test", guidance=guidance)
        assert built.guidance == model.guidance == guidance
        assert list(built.state_dict()) == names
        answers[guidance] = model(x)
        assert torch.equal(built(x), answers[guidance])
        assert torch.equal(model(x), answers[guidance])
    assert not torch.allclose(answers["uniform"], answers["significance"], atol=1e-6)
    assert not torch.allclose(answers["random"], answers["uniform"], atol=1e-6)
    model.set_guidance("significance")
    assert torch.equal(model(x), answers["significance"])


@torch.no_grad()
def test_the_seed_decides_the_random_order():
    x = fill.picture("guidance", 1, 64, 64)
    first, same, other = (
        fill.model("sgformer_test", guidance="random", guidance_seed=seed)(x) for seed in (1, 1, 9)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other, atol=1e-6)


@pytest.mark.parametrize("guidance", GUIDANCE[1:])
@pytest.mark.parametrize("budget", [None, 20])
@torch.no_grad()
def test_images_of_a_batch_ignore_each_other(guidance, budget):
    model = fill.model("sgformer_test", guidance=guidance, token_budget=budget)
    x = fill.picture("batch", 3, 65, 97)
    together = model(x)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("guidance", GUIDANCE[1:])
@torch.no_grad()
def test_compiles_without_a_break(guidance):
    model = fill.model("sgformer_test", guidance=guidance, depths=(2, 0, 0, 1))
    x = fill.picture("compile", 2, 64, 96)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-9)


def test_lists_are_as_long_whatever_guides():
    lengths = {}
    for guidance in GUIDANCE:
        model = timm.create_model("sgformer_test", guidance=guidance)
        spending = model.forward_spending(torch.randn(1, 3, 97, 130))
        lengths[guidance] = [float(s.keys.sum()) for s in spending]
    assert lengths["uniform"] == pytest.approx(lengths["significance"])
    assert lengths["random"] == pytest.approx(lengths["significance"])


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        ValueError, match="guidance is 'centre'; choose 'significance', 'uniform' or 'random'"
    ):
        timm.create_model("sgformer_test", guidance="centre")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (25, 33), (56, 56), (3, 200)])
@pytest.mark.parametrize("num_bands", [2, 3])
def test_orders_hold_every_token_once(size, num_bands):
    N = size[0] * size[1]
    for order in (uniform_order(*size, num_bands), random_order(N, 0), random_order(N, 2**40)):
        assert order.sort().values.equal(torch.arange(N))


@pytest.mark.parametrize("sizes", [(196, 56, 28), (49, 14, 7), (2, 1)])
@pytest.mark.parametrize("size", [(56, 56), (25, 33), (40, 61)])
def test_a_uniform_order_gives_every_quarter_of_the_map_its_share_of_keys(sizes, size):
    keys = spend_tokens(uniform_order(*size, len(sizes))[None], sizes).keys.view(size)
    share = keys / keys.sum()
    half = size[0] // 2, size[1] // 2
    for rows in (slice(half[0]), slice(half[0], None)):
        for columns in (slice(half[1]), slice(half[1], None)):
            part = share[rows, columns]
            assert float(part.sum()) == pytest.approx(part.numel() / keys.numel(), rel=0.05)


def test_random_orders_look_random():
    N = 3136
    rank = random_order(N, 0).argsort().double()
    token = torch.arange(N).double()
    assert abs(torch.corrcoef(torch.stack((rank, token)))[0, 1]) < 0.06
    other = random_order(N, 1).argsort().double()
    assert abs(torch.corrcoef(torch.stack((rank, other)))[0, 1]) < 0.06


def test_each_pair_has_a_random_order_of_its_own():
    model = timm.create_model("sgformer_t", guidance="random", device="meta")
    seeds = [m.guidance_seed for m in model.modules() if isinstance(m, SelfGuidedAttention)]
    assert len(set(seeds)) == len(seeds) == 5


@torch.no_grad()
def test_spending_follows_the_significance_and_the_budget():
    model, x = fill.model("sgformer_test"), fill.picture("spending", 2, 224, 160)
    maps = model.forward_significance(x)
    for significance, spending in zip(maps, model.forward_spending(x), strict=True):
        assert spending.group_size.shape == spending.keys.shape == significance.shape
        for one, sizes in zip(significance, spending.group_size, strict=True):
            assert one[sizes == sizes.min()].min() >= one[sizes == sizes.max()].max()
    model.set_token_budget(16)
    for spending in model.forward_spending(x):
        assert float(spending.keys[0].sum()) <= 16 + 1e-3
