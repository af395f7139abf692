"""`benchmarks/guidance.py`: which runs there are, and what its tables say of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import guidance
import small_digits
from guided_tasks import TASKS
from orders import even_splits

from sgformer.backbone.regional import NUM_SIZES, RegionalAttention
from sgformer.ops import spend_regions


def test_each_four_runs_are_a_comparison():
    runs = list(guidance.planned())
    first = runs[: 4 * len(TASKS) * len(guidance.SEEDS)]
    for i in range(0, len(first), 4):
        four = first[i : i + 4]
        assert len({(run.task, run.seed) for run in four}) == 1
        assert tuple((run.merging, run.order) for run in four) == guidance.ARMS
    assert len({run.name for run in runs}) == len(runs)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(guidance, "RESULTS", tmp_path)

    def write(arm, seed, score):
        judged = [dict.fromkeys(TASKS["camvid"].shown, 0.0), dict.fromkeys(TASKS["camvid"].shown, score)]
        run = guidance.Run("camvid", *arm, seed)
        run.result.write_text(json.dumps({"judged": judged}), encoding="utf-8")

    return write


def test_differences_are_paired_by_seed(results):
    significance, uniform = guidance.ARMS[:2]
    for seed, (a, b) in enumerate([(0.5, 0.4), (0.7, 0.5)]):
        results(significance, seed, a)
        results(uniform, seed, b)
    results(significance, 2, 0.9)
    assert guidance.difference("camvid", significance, uniform) == "+0.150 ± 0.050 (2 seeds)"
    assert "0.450 ± 0.071 (2 seeds)" in guidance.table("camvid")
    assert guidance.difference("camvid", *guidance.ARMS[2:]) is None


def test_one_seed_has_no_uncertainty(results):
    for arm in guidance.ARMS:
        results(arm, 0, 0.5)
    assert "one seed" in guidance.difference("camvid", *guidance.ARMS[:2])


def test_scenes_ask_what_is_in_them():
    x, target = small_digits.scenes("val", 3, np.random.default_rng(0))
    again, _ = small_digits.scenes("val", 3, np.random.default_rng(0))
    assert torch.equal(x, again)
    assert x.shape == (3, 1, small_digits.SIZE, small_digits.SIZE)
    assert target["centres"].shape == (3, small_digits.NUM_DIGITS, 2)
    assert target["centres"].min() > 0 and target["centres"].max() < small_digits.SIZE  # noqa: PT018
    for labels, others in zip(target["labels"].tolist(), target["others"], strict=True):
        for i in range(len(labels)):
            rest = labels[:i] + labels[i + 1 :]
            assert others[i].nonzero().flatten().tolist() == sorted(set(rest))


@pytest.mark.parametrize(
    ("size", "group_sizes"), [((56, 56), (196, 56, 28)), ((28, 40), (49, 14, 7)), ((14, 14), (2, 1))]
)
def test_even_splits_are_spread_over_the_map(size, group_sizes):
    attention = RegionalAttention(8, 2, group_sizes=group_sizes)
    map_ = even_splits(attention, *size)
    keys = spend_regions(map_[None], num_sizes=NUM_SIZES, num_keys=attention.num_keys(map_.numel())).keys[0]
    for rows in (slice(size[0] // 2), slice(size[0] // 2, None)):
        for columns in (slice(size[1] // 2), slice(size[1] // 2, None)):
            assert float(keys[rows, columns].sum() / keys.sum()) == pytest.approx(0.25, abs=0.06)


@pytest.mark.slow
def test_a_run_trains_and_says_how(tmp_path):
    found = guidance.train(guidance.Run("digits16", "regions", "uniform", 0), tmp_path, steps=1)
    assert found["judged"][-1]["step"] == 1
    assert 0 < found["judged"][-1]["others_auc"] < 1
    assert found["recipe"]["budget"] == 16
    assert json.dumps(found)
