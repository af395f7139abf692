"""Two processes that share each batch learn what one process learns."""

import multiprocessing
import os
import socket
import subprocess
import sys

import pytest
import torch

from engine import two_processes
from engine.killed_runs import started
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


def train(folder, *launchers, **settings):
    """Run the command line in processes of its own, as people do: one for each launcher, (arguments, environment)."""
    arguments = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    processes = [
        subprocess.Popen(
            [sys.executable, *launcher, "-m", "sgformer", "train", "smoke", "--out", str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        for launcher, environment in launchers or [([], {})]
    ]
    printed = ""
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        printed += out
    return folder / "smoke", printed


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def torchrun_on_two_nodes():
    """Each node's torchrun, with one process; both nodes are this machine."""
    run = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    run += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    return [([*run, "--node-rank", node], {}) for node in "01"]


def slurm_on_two_nodes():
    """What srun gives each of two tasks."""
    shared = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    return [([], {**shared, "SLURM_PROCID": node, "SLURM_NODEID": node}) for node in "01"]


WAYS = {
    "devices": (list, {"trainer.devices": 2}),  # Lightning starts the processes
    "torchrun": (torchrun_on_two_nodes, {"trainer.num_nodes": 2}),
    "slurm": (slurm_on_two_nodes, {"trainer.num_nodes": 2}),
}


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forks here")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.exhaustive] * (case != "segmentation")) for case in two_processes.CASES],
)
def test_the_loss_of_dense_tasks_is_that_over_all_processes(case, tmp_path):
    processes = [started(two_processes.share, case, rank, tmp_path) for rank in (0, 1)]
    expected = two_processes.gradients(case)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), **{"data.batch_size": 16})


def read(folder):
    tensors, metadata = weights.read(folder / "last.safetensors")
    return tensors, metadata["metrics"]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[pytest.mark.exhaustive] * (how == "devices")) for how in WAYS]
)
def test_two_processes_are_one_with_twice_the_batch(alone, tmp_path, how):
    launchers, settings = WAYS[how]
    folder, printed = train(tmp_path, *launchers(), **{"data.batch_size": 16, **settings})
    assert not (tmp_path / "smoke-2").exists()
    assert printed.count("epoch 2/2") == 1  # one of them speaks
    assert (folder / "report.html").is_file(), printed
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone[0].iterdir()}
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
