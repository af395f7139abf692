"""Two processes with half a batch each learn what one process learns."""

import os
import subprocess
import sys

import pytest
import torch

from sgformer.engine import weights

SETTINGS = {
    "data.scenes.num_train": 64,
    "data.scenes.num_val": 11,  # odd: the processes judge six and five
    "data.scenes.size": 32,
    "data.image_size": 32,
    "trainer.max_epochs": 2,
    "trainer.accelerator": "cpu",
    "trainer.tensorboard": "false",
}


def train(folder, *launcher, **settings):
    """Run the command line in a process of its own, as people do."""
    arguments = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "sgformer", "train", "smoke", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder / "smoke", done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), **{"data.batch_size": 16})


def read(folder):
    tensors, metadata = weights.read(folder / "last.safetensors")
    return tensors, metadata["metrics"]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
@pytest.mark.parametrize("how", ["devices", "torchrun"])
def test_two_processes_are_one_with_twice_the_batch(alone, tmp_path, how):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if how == "torchrun" else []
    folder, printed = train(tmp_path, *launcher, **{"data.batch_size": 8, "trainer.devices": 2})
    assert not (tmp_path / "smoke-2").exists()
    assert printed.count("epoch 2/2") == 1  # one of them speaks
    (tensors, metrics), (expected, expected_metrics) = read(folder), read(alone[0])
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    for name in ("train_loss", "val_loss", "val_top1", "val_top5", "step"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-3), name


def test_accumulation_is_a_larger_batch(alone, tmp_path):
    folder, _ = train(tmp_path, **{"data.batch_size": 8, "trainer.accumulate": 2})
    (tensors, metrics), (expected, expected_metrics) = read(folder), read(alone[0])
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    assert metrics["step"] == expected_metrics["step"]
