"""Weights that are cut up among processes. Two of them are in test_distributed.py; here is one, which has it all."""

import os

import pytest
import timm
import torch
from torch import nn

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.commands.train import train
from sgformer.engine import checkpoints, weights
from sgformer.engine.callbacks import LossError
from sgformer.engine.fit import TrainerOptions
from sgformer.engine.sharding import blocks

OVERRIDES = {
    "data.scenes.num_train": 32,
    "data.scenes.num_val": 10,
    "data.scenes.size": 32,
    "data.image_size": 32,
    "data.batch_size": 8,
    "model.drop_path_rate": 0.2,
    "trainer.max_epochs": 2,
    "trainer.checkpoint_minutes": 0,
    "trainer.accelerator": "cpu",
    "trainer.tensorboard": False,
    "trainer.strategy": "fsdp",
    "trainer.grad_checkpointing": True,
}

needs_gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")


class Interrupted(Exception):
    """As good as a kill: nothing is written after it."""


@pytest.fixture
def own_environment():
    """Lightning leaves the address of the processes in the environment, where the next test must not find it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@needs_gloo
def test_a_run_goes_on_from_its_checkpoint_and_is_the_run_of_plain_weights(
    tmp_path, monkeypatch, own_environment
):
    whole = train("smoke", OVERRIDES, out=tmp_path / "whole")
    saves = iter(range(100))
    save = checkpoints.AtomicCheckpointIO.save_checkpoint

    def saves_six_times(*args, **kwargs):
        save(*args, **kwargs)
        if next(saves) == 5:  # in the second epoch
            raise Interrupted

    monkeypatch.setattr(checkpoints.AtomicCheckpointIO, "save_checkpoint", saves_six_times)
    with pytest.raises(Interrupted):
        train("smoke", OVERRIDES, out=tmp_path / "broken")
    torch.distributed.destroy_process_group()
    monkeypatch.undo()
    broken = train("smoke", out=tmp_path, resume=tmp_path / "broken" / "smoke")
    plain = train("smoke", {**OVERRIDES, "trainer.strategy": "auto"}, out=tmp_path / "plain")
    expected, _ = weights.read(whole / "last.safetensors")
    for other in (broken, plain):
        found, _ = weights.read(other / "last.safetensors")
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    ours, theirs = (torch.load(f / "last.ckpt", weights_only=True) for f in (whole, plain))
    assert ours["global_step"] == theirs["global_step"] == 8
    for key in ("state_dict", "current_model_state"):  # a checkpoint does not tell how it came about
        assert ours[key].keys() == theirs[key].keys()
        assert all(torch.equal(ours[key][name], theirs[key][name]) for name in ours[key])
    assert not torch.distributed.is_initialized()
    tasks.load(broken / "best.safetensors")


@needs_gloo
def test_running_statistics_are_averaged_and_saved_too(tmp_path, own_environment):
    overrides = {**OVERRIDES, "model.name": "test_resnet", "trainer.max_epochs": 1}
    ours, theirs = (
        weights.read(train("smoke", {**overrides, "trainer.strategy": strategy}, out=tmp_path / strategy))[0]
        for strategy in ("fsdp", "auto")
    )
    assert any(name.endswith("running_mean") for name in ours)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    ("name", "number"),
    [("sgformer_test", 7), ("sgformer_s", 23), ("test_vit", 6), ("swin_tiny_patch4_window7_224", 12)],
)
def test_the_parts_are_the_blocks_of_any_backbone(name, number):
    model = timm.create_model(name)
    parts = blocks(nn.ModuleDict({"backbone": model}))
    assert len(parts) == number
    assert len(set(map(type, parts))) <= 3
    inside = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert inside > 0.5 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, r"--trainer\.precision bf16-mixed"),
        ({"compile": True}, r"--trainer\.compile"),
        ({"channels_last": True}, r"--trainer\.channels_last"),
    ],
)
def test_what_cannot_be_combined_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainerOptions(strategy="fsdp", **settings)


@needs_gloo
def test_the_layer_that_a_nan_comes_from_is_found_though_weights_are_cut_up(
    tmp_path, monkeypatch, own_environment
):
    task_module = tasks.get("classification")
    build = task_module.build

    def build_one_that_breaks(parsed):
        task, data = build(parsed)
        layer = task.model.backbone.get_submodule("stages.1.blocks.1.mlp")
        layer.register_forward_hook(lambda layer, x, y: y * float("nan") if task.global_step == 2 else None)
        return task, data

    monkeypatch.setattr(task_module, "build", build_one_that_breaks)
    with pytest.raises(
        LossError, match=r"loss is nan at step 2, .* output of model\.backbone\.stages\.1\.blocks\.1\.mlp"
    ):
        train("smoke", OVERRIDES, out=tmp_path)
    torch.distributed.destroy_process_group()
