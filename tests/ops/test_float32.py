"""`fast_float32`: products stay float32, and what was set before is set again."""

import pytest
import torch

import sgformer
from sgformer.ops import float32


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    float32._error.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    float32._error.cache_clear()


def error_of_a_product():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 300, generator=generator), torch.randn(50, 300, generator=generator)
    right = x.double() @ y.double().T
    return float(((x @ y.T) - right).norm() / right.norm())


def test_products_stay_float32_and_the_setting_goes_back():
    state = torch.random.get_rng_state()
    with sgformer.fast_float32() as setting:
        assert (torch.get_float32_matmul_precision() == "medium") == (setting.objection is None)
        assert error_of_a_product() < float32.MAX_ERROR
        with sgformer.fast_float32() as inner:  # one in the other
            assert inner.objection == setting.objection
        assert (torch.get_float32_matmul_precision() == "medium") == (setting.objection is None)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.equal(torch.random.get_rng_state(), state)
    setting = sgformer.fast_float32()
    setting.restore()
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_processor_that_rounds_is_left_alone(monkeypatch):
    """As one with matrix units for bfloat16 does."""
    seen = []

    def rounded(x, y):
        if x.dtype is torch.float64:
            return torch.matmul(x, y)
        seen.append(torch.get_float32_matmul_precision())
        return (x.bfloat16().float()[:, :, :, None] * y.bfloat16().float()[:, None]).sum(2)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    monkeypatch.setattr(float32, "SHAPES", ((1, 4, 5, 6),))
    with sgformer.fast_float32() as setting:
        assert torch.get_float32_matmul_precision() == "highest"
        assert "rounded" in setting.objection
    assert seen[0] == "medium"  # it was tried, and set back
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["high"])
def test_what_somebody_set_is_left_alone(name):
    torch.set_float32_matmul_precision(name)
    with sgformer.fast_float32() as setting:
        assert name in setting.objection
        assert torch.get_float32_matmul_precision() == name
    assert torch.get_float32_matmul_precision() == name


def test_a_gpu_is_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with sgformer.fast_float32() as setting:
        assert "GPU" in setting.objection
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this PyTorch has no newer names")
def test_the_newer_names_of_the_setting_are_understood(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: (_ for _ in ()).throw(RuntimeError("mixed")))
    assert sgformer.fast_float32().objection is not None
    assert not float32.is_fast()
