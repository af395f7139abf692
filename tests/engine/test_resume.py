"""A run that was killed, at any moment, goes on to the very weights of a run that was not."""

import multiprocessing
import os
import random
import shutil
import signal
import time
import types
from pathlib import Path

import pytest
import torch

from engine.killed_runs import OVERRIDES, go_on_with_small_files, run, started
from sgformer.commands.train import train
from sgformer.engine import checkpoints, weights
from sgformer.engine.checkpoints import AtomicCheckpointIO
from sgformer.tasks.digit_scenes import DigitScenes

needs_fork = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here"
)


def start(out, resume=None, fatal=frozenset()):
    return started(run, out, resume, fatal)


def outcome(folder: Path):
    """All that a run learned: weights, averages, the optimizer's state; and its table of metrics."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    tensors = {
        **{f"average.{name}": t for name, t in checkpoint["state_dict"].items()},
        **{f"current.{name}": t for name, t in checkpoint["current_model_state"].items()},
        **{
            f"optimizer.{i}.{name}": torch.as_tensor(value)
            for i, state in checkpoint["optimizer_states"][0]["state"].items()
            for name, value in state.items()
        },
        **weights.read(folder / "last.safetensors")[0],
    }
    return tensors, checkpoint["global_step"]


def assert_same(a, b):
    (tensors, steps), (others, other_steps) = a, b
    assert steps == other_steps
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


@needs_fork
@pytest.mark.parametrize("kills", [4, pytest.param(12, marks=pytest.mark.exhaustive)])
def test_kill_at_any_moment(tmp_path, kills):
    """Thirty: benchmarks/kill_test.py."""
    started(time.sleep, 0).join()  # the server is up before the clock runs
    process = start(tmp_path / "whole")
    begun = time.monotonic()
    process.join()
    seconds = time.monotonic() - begun
    assert process.exitcode == 0
    whole = outcome(tmp_path / "whole" / "smoke")
    assert whole[1] == 18

    rng, folder, num_killed, resumed_within = random.Random(0), tmp_path / "killed" / "smoke", 0, set()
    while True:
        resume = folder if (folder / "last.ckpt").exists() else None
        if resume:
            resumed_within.add(torch.load(folder / "last.ckpt", weights_only=True)["global_step"])
        elif folder.exists():
            folder.rename(tmp_path / f"nothing-saved-{num_killed}")
        process = start(folder.parent, resume)
        # At first before the run has begun, later anywhere in it, until it has had its share.
        process.join(rng.uniform(0.2, 0.8) * seconds if num_killed < kills else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            num_killed += 1
            continue
        assert process.exitcode == 0
        if num_killed:
            break
        # It was done before its end came, since the machine was busier before: once more, and sooner.
        shutil.rmtree(folder)
        seconds /= 2
    assert_same(outcome(folder), whole)
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert leftovers == []


@needs_fork
def test_kill_in_the_middle_of_a_save(tmp_path):
    process = start(tmp_path / "whole")
    process.join()
    whole = outcome(tmp_path / "whole" / "smoke")

    folder = tmp_path / "killed" / "smoke"
    process = start(folder.parent, fatal={4, 9})
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(path.name.startswith(".last.ckpt") for path in folder.iterdir())  # half a save
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 4  # the one before is whole
    process = start(folder.parent, folder)
    process.join()
    assert process.exitcode == 0
    assert_same(outcome(folder), whole)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(3)}, path)

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match=r"unharmed.*--resume") as error:
        AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3)}, path)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.zeros(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(OSError, match=r"there is none yet\. Make the folder writable") as error:
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(3)}, tmp_path / "gone" / "last.ckpt")
    assert "\n" not in str(error.value)


@needs_fork
def test_files_that_the_system_cuts_off_leave_the_last_good_ones(tmp_path):
    pytest.importorskip("resource")
    settings = {"trainer.checkpoint_minutes": None, "trainer.max_epochs": 1}
    folder = train("smoke", {**OVERRIDES, **settings}, out=tmp_path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}

    # Weights fit, checkpoints do not.
    limit = len(before["last.ckpt"]) // 2
    process = started(go_on_with_small_files, folder, limit, tmp_path / "errors")
    process.join()
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert process.exitcode == 2
    assert "no checkpoint could be written" in line
    assert "File too large" in line
    assert f"unharmed: {folder}/last.ckpt" in line
    assert (folder / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    train("smoke", {"trainer.max_epochs": 2}, out=tmp_path, resume=folder)
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 12


def test_too_little_space_is_said_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1_500_000))
    with pytest.raises(OSError, match=r"has 2 MB free, but the run may take 7 MB .* --out FOLDER"):
        train("smoke", OVERRIDES, out=tmp_path / "runs")
    with pytest.raises(OSError, match="may take 11 MB"):
        train("smoke", {**OVERRIDES, "trainer.keep_best": 5}, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    # A run that goes on has some of it already.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(bytes(3_000_000))
    with pytest.raises(OSError, match=r"may take 4 MB for checkpoints and weights; free some space$"):
        checkpoints.check_space(tmp_path / "run", torch.nn.Linear(1000, 182))


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_checkpoint_that_does_not_belong_to_the_run_changes_nothing(tmp_path, monkeypatch):
    folder = train("smoke", {**OVERRIDES, "trainer.max_epochs": 1}, out=tmp_path)
    good = (folder / "last.ckpt").read_bytes()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    cases = [
        ({"model.name": "test_resnet"}, r"cannot change model\.name .*--model\.weights"),
        ({"trainer.ema_decay": None}, r"cannot change trainer\.ema_decay"),
    ]
    for overrides, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            train("smoke", {**overrides, "trainer.max_epochs": 2}, resume=folder)
        assert len(str(error.value)) < 400
    # Whoever edits the run's own recipe, or its data, is told by the checkpoint.
    recipe_yaml = (folder / "recipe.yaml").read_text()
    for old, new, message in [
        ("name: sgformer_test", "name: test_resnet", r"another model, .* differ\); resume it as it was begun"),
        ("ema_decay: 0.9", "ema_decay: null", r"made with trainer\.ema_decay"),
    ]:
        (folder / "recipe.yaml").write_text(recipe_yaml.replace(old, new))
        with pytest.raises(ValueError, match=message):
            train("smoke", resume=folder)
    (folder / "recipe.yaml").write_text(recipe_yaml)
    monkeypatch.setattr(DigitScenes, "classes", tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"has learned '0' as class 0, which is 'a' now"):
        train("smoke", resume=folder)
    monkeypatch.undo()
    for content in ({"a": 1}, [3], {"state_dict": Evil(tmp_path / "trace"), "epoch": 1}):
        torch.save(content, folder / "last.ckpt")
        with pytest.raises(ValueError, match=r"last\.ckpt is no checkpoint of this package.* --model\.weights"):
            train("smoke", {"trainer.max_epochs": 2}, resume=folder)
    assert not (tmp_path / "trace").exists()
    (folder / "last.ckpt").write_bytes(good)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    (folder / "recipe.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no recipe\.yaml to go on from"):
        train("smoke", resume=folder)


def test_a_checkpoint_that_was_copied_in_part_is_refused(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(3000)}, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:4000])
    (tmp_path / "recipe.yaml").write_text("task: classification\n")
    with pytest.raises(ValueError, match=r"last\.ckpt is cut off.* --model\.weights"):
        train("smoke", resume=tmp_path)
