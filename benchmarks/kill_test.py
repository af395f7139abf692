"""Kill a short run at random moments, resume it each time, and compare with a run that nobody disturbed.

    python benchmarks/kill_test.py [NUMBER_OF_KILLS]

Writes `results/kill_test.json` and the sentence between the marks in `docs/training.md`. The run draws random numbers
wherever it can: order, flips, mixup, drop path; it is evaluated with averaged weights, and writes a checkpoint at every
step, so that many kills hit a save.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from pages import fill

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "data.scenes.num_train": 256,
    "data.scenes.num_val": 10,
    "data.scenes.size": 32,
    "data.image_size": 32,
    "data.batch_size": 8,
    "data.augment.mixup": 0.5,
    "data.augment.flip": 0.5,
    "model.drop_path_rate": 0.2,
    "trainer.max_epochs": 4,
    "trainer.checkpoint_minutes": 0,
    "trainer.tensorboard": "false",
}


def start(out: Path, resume: Path | None) -> subprocess.Popen[bytes]:
    arguments = [f"--{key}={value}" for key, value in SETTINGS.items()]
    arguments += ["--resume", str(resume)] if resume else ["--out", str(out)]
    command = [sys.executable, "-m", "sgformer", "train", "smoke", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Current and averaged weights, and the optimizer's state."""
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    found = {f"{kind}.{k}": v for kind in ("state_dict", "current_model_state") for k, v in checkpoint[kind].items()}
    for i, state in checkpoint["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return found


def main(num_kills: int) -> None:
    rng, steps_when_killed, half_saves = random.Random(0), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch, "whole"), Path(scratch, "killed")
        start(whole, None).wait()
        folder = killed / "smoke"
        while True:
            if folder.exists() and not (folder / "last.ckpt").exists():
                shutil.rmtree(folder)
            process = start(killed, folder if folder.exists() else None)
            before = (folder / "last.ckpt").stat().st_mtime if folder.exists() else 0
            if len(steps_when_killed) == num_kills:
                process.wait()
                break
            # Wait until this attempt saves for the first time, then a random while: anywhere in a few steps.
            while process.poll() is None and (
                not (folder / "last.ckpt").exists() or (folder / "last.ckpt").stat().st_mtime == before
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.4))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            half_saves += any(folder.glob(".last.ckpt.*"))
            steps_when_killed.append(torch.load(folder / "last.ckpt", weights_only=True)["global_step"])
        expected, found = tensors(whole / "smoke"), tensors(folder)
    differing = [name for name in expected if not torch.equal(expected[name], found[name])]
    result = {
        "kills": len(steps_when_killed),
        "steps_when_killed": steps_when_killed,
        "kills_within_a_save": half_saves,
        "tensors": len(expected),
        "tensors_that_differ": len(differing),
        "torch": torch.__version__,
    }
    (ROOT / "benchmarks" / "results" / "kill_test.json").write_text(json.dumps(result, indent=1) + "\n")
    sentence = (
        f"{result['kills']} kills, {half_saves} of them within a save; {len(differing)} of {len(expected)} tensors "
        "(current and averaged weights, state of the optimizer) differ from those of the undisturbed run."
    )
    fill(ROOT / "docs" / "training.md", "kill_test", f"{sentence}\n")
    print(sentence)
    sys.exit(bool(differing))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
