import pytest
import timm
import torch
from timm.optim import muon
from timm.scheduler import CosineLRScheduler
from torch import nn

import sgformer  # noqa: F401
from sgformer.engine.optim import OptimOptions, create_optimizer, create_schedule

MODELS = ["sgformer_test", "test_vit", "resnet10t"]


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_groups_hold_every_parameter_once_and_exempt_the_right_ones(name, layer_decay):
    model = timm.create_model(name, num_classes=3)
    options = OptimOptions(lr=1e-2, weight_decay=0.1, layer_decay=layer_decay)
    optimizer = create_optimizer(model, options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(names)
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            free = parameter.ndim <= 1 or names[parameter] in exempt
            assert group["weight_decay"] == (0 if free else 0.1), names[parameter]
    rates = [group["lr"] for group in optimizer.param_groups]
    assert max(rates) == 1e-2
    assert (min(rates) < 1e-2) == (layer_decay is not None)


def test_exemptions_are_found_inside_a_larger_model():
    model = nn.ModuleDict({"backbone": timm.create_model("sgformer_test"), "head": nn.Linear(4, 4)})
    optimizer = create_optimizer(model, OptimOptions())
    positions = model["backbone"].stem.pos_embed
    (group,) = [group for group in optimizer.param_groups if any(p is positions for p in group["params"])]
    assert group["weight_decay"] == 0


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("warmup", [0, 0.5, 2, 100])
def test_schedule_rises_then_falls_to_the_end(warmup, layer_decay):
    options = OptimOptions(lr=1e-2, final_lr=1e-4, warmup_epochs=warmup, layer_decay=layer_decay)
    optimizer = create_optimizer(timm.create_model("test_vit"), options)
    schedule = create_schedule(optimizer, options, num_steps=40, num_epochs=4)
    rates = []
    for _ in range(40):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    peak = min(round(warmup * 10), 40)
    assert max(rates) == pytest.approx(1e-2, rel=0.03)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if warmup < 4:
        assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(1e-4)


def rates_of(options, num_steps, num_epochs):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=options.lr)
    schedule = create_schedule(optimizer, options, num_steps=num_steps, num_epochs=num_epochs)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("final_epochs", [0, 3])
def test_cosine_is_that_of_timm(final_epochs):
    options = OptimOptions(lr=1e-3, warmup_lr=1e-6, warmup_epochs=2, final_lr=1e-5, final_epochs=final_epochs)
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1e-3)
    theirs = CosineLRScheduler(
        optimizer,
        t_initial=(12 - 2 - final_epochs) * 7,
        lr_min=1e-5,
        warmup_t=14,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    expected = []
    for step in range(84):
        theirs.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    assert rates_of(options, 84, 12) == pytest.approx(expected, rel=1e-9)


def test_steps_and_linear():
    rates = rates_of(OptimOptions(lr=1.0, final_lr=0, schedule="steps", step_epochs=[8, 11]), 24, 12)
    assert rates == pytest.approx([1.0] * 16 + [0.1] * 6 + [0.01] * 2)
    rates = rates_of(OptimOptions(lr=1.0, final_lr=0, schedule="linear"), 10, 2)
    assert rates == pytest.approx([1 - i / 10 for i in range(10)])
    with pytest.raises(ValueError, match="leave nothing"):
        rates_of(OptimOptions(warmup_epochs=1, final_epochs=1), 10, 2)


def test_mistakes_name_the_remedy():
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        create_optimizer(nn.Linear(2, 2), OptimOptions(name="adamww"))
    with pytest.raises(ValueError, match="layer_decay at null"):
        create_optimizer(nn.Linear(2, 2), OptimOptions(layer_decay=0.5))
    with pytest.raises(ValueError, match="final_lr"):
        OptimOptions(lr=1e-3, final_lr=1)


def test_more_arguments_reach_the_optimizer():
    optimizer = create_optimizer(nn.Linear(2, 2), OptimOptions(kwargs={"betas": [0.8, 0.9]}))
    assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.9)
    assert isinstance(optimizer, torch.optim.Optimizer)


@pytest.mark.parametrize("able", [{}, {"avx512_bf16": True}])
def test_muon_orthogonalizes_in_what_a_processor_is_fast_at(monkeypatch, able):
    """timm offers no argument for it; where its function is gone or renamed, this fails."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    plain, seen = muon.zeropower_via_newtonschulz, []

    def spy(matrix, *args, **kwargs):
        seen.append(kwargs.get("dtype", torch.bfloat16))
        return plain(matrix, *args, **kwargs)

    monkeypatch.setattr(muon, "zeropower_via_newtonschulz", spy)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    optimizer = create_optimizer(model, OptimOptions(name="nmuon", lr=0.1, weight_decay=0.0))
    before = model[0].weight.detach().clone()
    model(torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    optimizer.step()
    assert set(seen) == {torch.bfloat16 if able else torch.float32}
    assert muon.zeropower_via_newtonschulz is spy  # as it was
    update = before - model[0].weight.detach()
    values = torch.linalg.svdvals(update)
    assert values[1] > 0.5 * values[0]  # orthogonal, about; the gradient of two outputs has rank two


def test_a_timm_without_that_function_is_said(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.delattr(muon, "zeropower_via_newtonschulz")
    with pytest.warns(UserWarning, match="Muon"):
        create_optimizer(nn.Linear(2, 2), OptimOptions(name="nmuon"))
