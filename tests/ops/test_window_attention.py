"""`window_attention` on the CPU: its backends agree, and its promises hold."""

import pytest
import torch

from sgformer.ops import window_attention
from sgformer.ops.window_attention import api, explain_backends

SIZES = [(7, 7), (14, 21), (8, 7), (7, 15), (10, 9), (1, 1), (3, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_backends_agree(size):
    qkv = torch.randn(2, *size, 3 * 8, dtype=torch.float64)
    expected = window_attention(qkv, num_heads=2, backend="reference")
    for name, answer in explain_backends(qkv, num_heads=2).items():
        if answer == "yes" or "fewer than" in answer:
            torch.testing.assert_close(window_attention(qkv, num_heads=2, backend=name), expected)


@pytest.mark.parametrize("size", SIZES)
def test_each_window_by_itself(size):
    qkv = 2 * torch.randn(1, *size, 3 * 8, dtype=torch.float64)
    out, significance = window_attention(qkv, num_heads=2)
    for top in range(0, size[0], 7):
        for left in range(0, size[1], 7):
            window = qkv[:, top : top + 7, left : left + 7]
            q, k, v = window.reshape(-1, 3, 2, 4).permute(1, 2, 0, 3)  # (2, tokens, 4) each
            weights = (q @ k.mT / 2).softmax(-1)
            wanted = (weights @ v).transpose(0, 1).reshape(*window.shape[:3], 8)
            torch.testing.assert_close(out[:, top : top + 7, left : left + 7], wanted)
            received = weights.mean((0, 1)) * weights.shape[-1]
            torch.testing.assert_close(
                significance[0, top : top + 7, left : left + 7].flatten(), received, rtol=1e-12, atol=1e-12
            )
    torch.testing.assert_close(significance.mean(), torch.ones((), dtype=torch.float64))


def test_auto_sets_the_edges_of_large_maps_apart():
    large, small = torch.empty(1, 65, 64, 24), torch.empty(1, 60, 60, 24)
    assert explain_backends(large, num_heads=2)["edges_apart"] == "yes"
    assert explain_backends(small, num_heads=2)["edges_apart"] == "the map has fewer than 4,096 tokens"
    assert explain_backends(small[:, :56, :56], num_heads=2)["edges_apart"] == "windows fill the map"
    assert list(api.BACKENDS)[-1] == "reference"


def test_errors_say_what_was_received():
    with pytest.raises(ValueError, match=r"multiple of 2 heads, got \(1, 7, 7, 8\)"):
        window_attention(torch.ones(1, 7, 7, 8), num_heads=2)
    with pytest.raises(ValueError, match="windows fill the map"):
        window_attention(torch.ones(1, 7, 7, 12), num_heads=2, backend="edges_apart")
