import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sgformer.engine.sampling import POOL, Draw, EpochSampler, TrainLoader, fold, seed_all, seed_sample, seeded


class Noise(Dataset):
    """Gives the index and a number from each of the three generators."""

    def __len__(self):
        return 22

    def __getitem__(self, draw):
        index = seeded(draw)
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()])


def epoch(loader, number):
    loader.order.set_epoch(number)
    return torch.stack(list(loader))


def loader(workers=0, **kwargs):
    return TrainLoader(Noise(), EpochSampler(22, batch_size=4, seed=3, **kwargs), num_workers=workers)


def test_an_epoch_depends_on_seed_and_number_alone():
    first = epoch(loader(), 0)
    seed_all(99)
    assert torch.equal(epoch(loader(), 0), first)
    assert torch.equal(epoch(loader(workers=2), 0), first)
    other = epoch(loader(), 1)
    assert not torch.equal(other[..., 0], first[..., 0])  # another order
    by_index = {int(row[0]): row[1:] for row in first.flatten(0, 1)}
    assert any(
        not torch.equal(by_index[int(row[0])], row[1:]) for row in other.flatten(0, 1) if int(row[0]) in by_index
    )  # and other variations


def test_each_sample_comes_at_most_once_and_all_in_turn():
    first = epoch(loader(), 0)[..., 0].flatten().tolist()
    assert len(set(first)) == len(first) == 20
    seen = {index for number in range(6) for index in epoch(loader(), number)[..., 0].flatten().tolist()}
    assert seen == set(range(22))


def test_two_processes_share_the_batches_of_one():
    whole = TrainLoader(Noise(), EpochSampler(22, batch_size=4, seed=3))
    halves = [
        TrainLoader(Noise(), EpochSampler(22, batch_size=2, seed=3, rank=rank, num_processes=2)) for rank in (0, 1)
    ]
    together = torch.cat([epoch(half, 5) for half in halves], 1)
    assert torch.equal(together, epoch(whole, 5))


def test_it_goes_on_after_any_batch():
    whole = epoch(loader(), 2)
    for taken in range(1, 6):
        broken = loader()
        broken.order.set_epoch(2)
        batches = iter(broken)
        for _ in range(taken):
            next(batches)
        state = broken.state_dict()
        resumed = loader()
        resumed.load_state_dict(state)
        if taken == 5:  # that was the last one
            assert resumed.order.epoch == 3
            assert torch.equal(torch.stack(list(resumed)), epoch(loader(), 3))
        else:
            resumed.order.set_epoch(2)  # as Lightning does
            assert torch.equal(torch.stack(list(resumed)), whole[taken:])


def test_a_sample_is_seeded_as_a_step_is_but_asks_no_gpu(monkeypatch):
    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_all(7)
    expected = numbers()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("this takes milliseconds"))
    seed_sample(7)
    assert numbers() == expected


def test_fold_tells_numbers_apart():
    seeds = {fold(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert seeded(7) == 7
    assert seeded(Draw(5, 1)) == 5


# ---- like samples together


SHAPES = [((7 * index) % 22) / 22 for index in range(22)]


def alike(number, *, length=22, shapes=SHAPES, **kwargs):
    """The draws of each batch of an epoch, of samples that share one with their like."""
    sampler = EpochSampler(length, **{"batch_size": 4, "seed": 3, "likeness": shapes, **kwargs})
    sampler.set_epoch(number)
    draws = list(sampler)
    return [draws[start : start + sampler.batch_size] for start in range(0, len(draws), sampler.batch_size)]


def test_like_samples_share_a_batch_and_what_batches_share():
    assert POOL >= 5  # the whole epoch is one pool
    for number in range(4):
        batches = alike(number)
        samples = sorted(draw.index for batch in batches for draw in batch)
        plain = epoch(loader(), number)[..., 0].flatten().tolist()
        assert samples == sorted(plain)  # the same ones as in any order
        ranges = sorted(sorted(SHAPES[draw.index] for draw in batch) for batch in batches)
        assert all(one[-1] <= other[0] for one, other in itertools.pairwise(ranges))
        assert all(len({draw.batch_seed for draw in batch}) == 1 for batch in batches)
        assert len({batch[0].batch_seed for batch in batches}) == 5
        assert len({draw.seed for batch in batches for draw in batch}) == 20
    firsts = [SHAPES[alike(number)[0][0].index] for number in range(8)]
    assert len(set(firsts)) > 3  # no epoch begins with the flattest
    assert alike(2) == alike(2) != alike(3)


def test_like_samples_are_mixed_anew_each_epoch():
    """Samples of one shape meet others each time, and those that are left out differ."""
    neighbours = {
        frozenset(draw.index for draw in batch)
        for number in range(10)
        for batch in alike(number, length=300, shapes=[index % 2 for index in range(300)])
    }
    assert len(neighbours) > 700  # of 750


def test_two_processes_share_the_batches_of_like_samples():
    whole = alike(5)
    halves = [alike(5, batch_size=2, rank=rank, num_processes=2) for rank in (0, 1)]
    assert [one + other for one, other in zip(*halves, strict=True)] == whole


def test_like_samples_go_on_after_any_batch():
    whole = alike(2)
    for taken in range(1, 5):
        sampler = EpochSampler(22, batch_size=4, seed=3, likeness=SHAPES)
        resumed = TrainLoader(Noise(), sampler)
        resumed.load_state_dict({"epoch": 2, "num_taken": taken})
        sampler.set_epoch(2)
        assert list(sampler) == [draw for batch in whole[taken:] for draw in batch]


def test_too_few_for_a_batch():
    assert alike(0, length=3, shapes=[0.0, 1.0, 2.0]) == []
