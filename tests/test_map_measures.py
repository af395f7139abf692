"""The measures say what they must on maps whose worth is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from map_measures import deletion_and_insertion, mask_on_tokens, points_at_object, roc_auc

MASK = np.zeros((40, 60), bool)
MASK[10:20, 20:50] = True  # the second of four rows of tokens, the third to fifth of six columns


def test_a_map_that_is_the_mask_is_perfect_and_its_opposite_the_reverse():
    significance = mask_on_tokens(MASK, (4, 6))
    assert significance[1].tolist() == [0, 0, 1, 1, 1, 0]
    assert roc_auc(significance, MASK) == 1
    assert roc_auc(-significance, MASK) == 0
    assert points_at_object(significance, MASK) == 1
    assert points_at_object(-significance, MASK) == 0


def test_no_differences_and_noise_are_chance():
    assert roc_auc(np.ones((4, 6)), MASK) == 0.5
    assert points_at_object(np.ones((4, 6)), MASK) == pytest.approx(MASK.mean())
    rng = np.random.default_rng(0)
    assert np.mean([roc_auc(rng.random((4, 6)), MASK) for _ in range(500)]) == pytest.approx(0.5, abs=0.03)


def test_roc_is_that_of_scikit_learn_where_tokens_are_pixels():
    metrics = pytest.importorskip("sklearn.metrics", reason="to compare with")
    significance = np.random.default_rng(0).integers(0, 30, MASK.shape)  # with ties
    assert roc_auc(significance, MASK) == pytest.approx(metrics.roc_auc_score(MASK.ravel(), significance.ravel()))


def test_nothing_to_tell_apart():
    assert roc_auc(np.random.rand(4, 6), np.zeros((40, 60), bool)) is None
    assert roc_auc(np.random.rand(4, 6), np.ones((40, 60), bool)) is None


def test_tokens_that_reach_beyond_the_edge_keep_their_place():
    on = mask_on_tokens(MASK, (5, 6), covered=(0.8, 1.0))
    assert on[1].tolist() == [0, 0, 1, 1, 1, 0]
    assert on[2:].sum() == 0


def test_deletion_hurts_and_insertion_helps_at_once_where_the_map_knows():
    def classify(x):  # class 1 where the upper left is bright
        return torch.stack((torch.zeros(len(x)), 20 * x[:, :, :10, :10].mean((1, 2, 3)) - 5), 1)

    x = torch.ones(1, 3, 40, 60)
    knows = np.zeros((4, 6))
    knows[0, 0] = 1
    deleted, inserted = deletion_and_insertion(classify, x, knows, steps=24)
    assert deleted.shape == inserted.shape == (25,)
    assert deleted[0] == pytest.approx(inserted[-1])
    assert deleted[0] > 0.99
    assert deleted[1:].max() < 0.01
    assert inserted[1:].min() > 0.99
    misleads = -knows
    deleted, inserted = deletion_and_insertion(classify, x, misleads, steps=24)
    assert deleted[:24].min() > 0.99
    assert inserted[:24].max() < 0.01
