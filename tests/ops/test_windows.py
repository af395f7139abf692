"""Windows of maps of any size: nothing lost, nothing added."""

import pytest
import torch

from sgformer.ops import from_windows, key_mean_attention, to_windows

SIZES = [(1, 1), (1, 20), (6, 8), (7, 7), (8, 13), (14, 21), (15, 7), (20, 1), (30, 33)]


@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("size", [1, 4, 7])
def test_round_trip(H, W, size):
    x = torch.randn(3, H, W, 5).permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)  # not contiguous
    windows, exists = to_windows(x, size=size)
    assert windows.shape == (3 * -(-H // size) * -(-W // size), size * size, 5)
    assert torch.equal(from_windows(windows, H, W, size=size), x)
    assert (exists is None) == (H % size == W % size == 0)
    if exists is not None:
        assert exists.shape == windows.shape[:2]
        assert torch.equal(from_windows(exists.unsqueeze(-1), H, W, size=size), torch.ones(3, H, W, 1) > 0)
        assert exists.sum() == 3 * H * W
        assert (windows[~exists] == 0).all()


@pytest.mark.parametrize(("H", "W"), SIZES)
def test_windows_are_read_from_the_top_left_corner(H, W):
    x = torch.arange(2.0 * H * W).view(2, H, W, 1)
    windows, exists = to_windows(x)
    regions = [x[b, i : i + 7, j : j + 7] for b in range(2) for i in range(0, H, 7) for j in range(0, W, 7)]
    for n, region in enumerate(regions):
        tokens = windows[n] if exists is None else windows[n][exists[n]]
        assert torch.equal(tokens, region.reshape(-1, 1))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize(("H", "W"), SIZES)
@pytest.mark.parametrize("outside", [0.0, 1e30])
def test_attention_in_windows_is_attention_in_regions(H, W, outside, backend):
    """Whatever stands where no token is: each region gets what it would get alone, key means included."""
    x = torch.randn(2, H, W, 4, dtype=torch.float64)
    windows, exists = to_windows(x)
    mask = None
    if exists is not None:
        windows = windows.masked_fill(~exists.unsqueeze(-1), outside)
        mask = (exists[:, :, None] & exists[:, None, :])[:, None]
    w = windows[:, None]
    out, key_mean = key_mean_attention(w, w, w, mask=mask, backend=backend)
    maps = [from_windows(t, H, W) for t in (out[:, 0], key_mean.unsqueeze(-1))]
    for i in range(0, H, 7):
        for j in range(0, W, 7):
            region = x[:, i : i + 7, j : j + 7]
            alone = region.flatten(1, 2)[:, None]
            for actual, expected in zip(
                maps, key_mean_attention(alone, alone, alone, backend="reference"), strict=True
            ):
                torch.testing.assert_close(actual[:, i : i + 7, j : j + 7].flatten(), expected.flatten())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_and_dtypes_pass(dtype):
    x = torch.randn(1, 9, 10, 2, dtype=dtype, requires_grad=True)
    from_windows(to_windows(x)[0] * 3, 9, 10).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3))
