"""`benchmarks/orders.py`: the orders that significance is compared with, held from outside the model."""

import sys
from pathlib import Path

import pytest
import torch

from backbone import fill
from sgformer.ops import spend_tokens

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import orders
from orders import random_order, uniform_order


@pytest.mark.parametrize("kind", ["uniform", "random"])
@torch.no_grad()
def test_a_model_spends_by_an_order_held_from_outside(kind):
    model, x = fill.model("sgformer_test", num_classes=5), fill.image("orders", 2, 97, 130)
    before = model(x)
    with orders.held(model, kind):
        held = model(x)
        torch.testing.assert_close(model(x[:1]), held[:1], rtol=0, atol=1e-9)
    assert (held - before).abs().max() > 1e-3
    assert torch.equal(model(x), before)
    if kind == "random":
        with orders.held(model, kind, seed=9):
            assert (model(x) - held).abs().max() > 1e-3


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
