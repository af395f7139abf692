"""What a training step keeps: less than autograd would by itself, with the same gradients."""

import pytest
import torch

import sgformer
from backbone import fill
from sgformer.fast import recomputed

SIZES = [(64, 96), (97, 130)]


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch):
    monkeypatch.setattr(recomputed, "SMALL", 0)


def gradients(model, x, *, autocast=False):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = model(x)
    out.float().square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_by(model, x):
    """Bytes that wait for the backward pass, parameters aside."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        out = model(x)
    of_model = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert out.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in of_model)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_the_same(size):
    model, x = fill.model("sgformer_test", num_classes=5), fill.image("memory", 2, *size)
    ours = gradients(model, x)
    with sgformer.plain():
        plain = gradients(model, x)
    assert ours.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(ours[name], plain[name], rtol=1e-9, atol=1e-9, msg=name)


def test_under_autocast_gradients_are_as_good():
    """Judged by the error of the plain way; the ranking of so small a map is not touched by the precision."""
    model, x = fill.model("sgformer_test", num_classes=5), fill.image("memory", 2, 64, 96)
    exact = gradients(model, x)
    model.float()
    ours = gradients(model, x.float(), autocast=True)
    with sgformer.plain():
        plain = gradients(model, x.float(), autocast=True)

    def error(given):
        return sum((given[n].double() - exact[n]).norm() / exact[n].norm().clamp(min=1e-9) for n in exact)

    assert ours.keys() == plain.keys()
    assert all(ours[name].dtype == torch.float32 for name in ours)
    assert error(ours) <= 1.5 * error(plain)


def test_less_is_kept():
    model, x = fill.model("sgformer_t", num_classes=5).float(), torch.randn(1, 3, 224, 224)
    ours = kept_by(model, x)
    with sgformer.plain():
        assert ours < 0.75 * kept_by(model, x)
