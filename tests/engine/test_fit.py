"""What the section ``trainer`` does to a model before it is trained."""

import contextlib
import copy
import warnings

import pytest
import torch

import sgformer  # noqa: F401
from sgformer.engine import devices, fit
from sgformer.engine.fit import TrainerOptions, prepare
from sgformer.tasks.backbones import Pyramid
from sgformer.tasks.classification import Classifier
from sgformer.tasks.images import Preprocessing


class Task(torch.nn.Module):
    """What the engine knows of a LightningModule."""

    def __init__(self, model):
        super().__init__()
        self.model = model


class Dense(torch.nn.Module):
    """What dense tasks have in common: a pyramid."""

    def __init__(self, name):
        super().__init__()
        self.backbone = Pyramid(name)

    def forward(self, images):
        return torch.cat([map_.flatten() for map_ in self.backbone(images)])


def classifier(name):
    return Classifier(name, classes=["a", "b"], preprocessing=Preprocessing(image_size=(64, 64)))


MODELS = [
    *[(classifier, name) for name in ("sgformer_test", "resnet10t", "convnext_atto", "pvt_v2_b0")],
    *[(Dense, name) for name in ("sgformer_test", "resnet10t", "convnext_atto")],
]


@pytest.mark.parametrize("setting", ["grad_checkpointing", "channels_last"])
@pytest.mark.parametrize(("make", "name"), MODELS)
def test_loss_and_gradients_stay_the_same(make, name, setting):
    plain = make(name).double().train()
    other = copy.deepcopy(plain)
    prepare(Task(other), TrainerOptions(**{setting: True}))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (plain, other):
        model(images).square().mean().backward()
    for (name, expected), parameter in zip(plain.named_parameters(), other.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-7, atol=1e-12, msg=name)


def test_checkpointing_keeps_less():
    images, kept = torch.randn(1, 3, 64, 64), []
    for checkpointing in (False, True):
        model = classifier("sgformer_test").train()
        prepare(Task(model), TrainerOptions(grad_checkpointing=checkpointing))
        num = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, num=num: num.append(x.numel()) or x, lambda x: x):
            model(images)
        kept.append(sum(num))
    assert kept[1] < 0.5 * kept[0]


def test_channels_come_last_from_the_first_layer_on():
    model = classifier("resnet10t")
    prepare(Task(model), TrainerOptions(channels_last=True))
    seen = []
    model.backbone.conv1.register_forward_hook(lambda layer, x, y: seen.append(y.stride()))
    model(torch.randn(1, 3, 64, 64))
    assert seen[0][1] == 1


def test_a_model_without_checkpointing_is_named():
    model = torch.nn.Module()
    model.name, model.backbone = "test_vit_x", torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"test_vit_x has no gradient.*grad_checkpointing false"):
        prepare(Task(model), TrainerOptions(grad_checkpointing=True))


def test_kernels_are_for_float32():
    model = classifier("sgformer_test")
    with pytest.raises(ValueError, match=r"trainer\.kernels.*bf16-mixed.*precision 32-true"):
        prepare(Task(model), TrainerOptions(kernels=True, precision="bf16-mixed"))
    prepare(Task(model), TrainerOptions(kernels=True, precision="32-true"))


@pytest.mark.parametrize("devices", [0, -1, "many", "2.5", "0;1"])
def test_a_number_of_processes(devices):
    with pytest.raises(ValueError, match=r"trainer\.devices .* such as 2, nor auto"):
        TrainerOptions(devices=devices)
    assert TrainerOptions(devices="0,2").devices == "0,2"


@pytest.mark.parametrize(
    ("num", "settings", "message"),
    [
        (0, {"accelerator": "gpu"}, r"finds none on this machine; set --trainer\.accelerator cpu"),
        (0, {"accelerator": "mps"}, r"finds none on this machine"),
        (2, {"devices": 8}, r"this machine has 2 GPUs; set --trainer\.devices 2"),
        (2, {"devices": 8, "accelerator": "cpu"}, None),
        (2, {"devices": 2}, None),
    ],
)
def test_devices_that_are_not_there_are_said_at_once(monkeypatch, num, settings, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    options = TrainerOptions(**settings)
    with contextlib.nullcontext() if message is None else pytest.raises(ValueError, match=message):
        devices.check(options.accelerator, options.devices)


@pytest.mark.parametrize(
    ("able", "precision"), [({"amx_bf16": True}, "bf16-mixed"), ({"avx512_f": True}, "32-true"), ({}, "32-true")]
)
def test_bfloat16_where_a_processor_has_it(monkeypatch, able, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert fit.precision_of(TrainerOptions()) == precision
    assert fit.precision_of(TrainerOptions(precision="64-true")) == "64-true"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(Task(classifier("test_resnet")), TrainerOptions(precision="bf16-mixed"))
    assert len(caught) == (precision == "32-true")
    assert all("--trainer.precision 32-true" in str(warning.message) for warning in caught)


def test_a_recipe_that_cuts_up_weights_is_told_so():
    with pytest.raises(ValueError, match=r"trainer\.strategy fsdp.*--trainer\.strategy auto"):
        TrainerOptions(strategy="fsdp")


@pytest.mark.parametrize("asked", [8, "8", "0,2"])
def test_several_processes_on_a_cpu_have_to_be_asked_for(monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"trainer\.devices .*no GPU.*--trainer\.devices 1.*--trainer\.accelerator cpu"
    ):
        devices.check("auto", asked)
    devices.check("cpu", asked)
    devices.check("auto", "auto")
    assert devices.num_processes("auto", 3) == 3
    assert devices.num_processes(asked, 2) == (4 if asked == "0,2" else 16)
