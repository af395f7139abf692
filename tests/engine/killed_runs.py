"""Runs in processes of their own, for tests that kill them or take something from them.

The processes are forked from a server that has imported the package and done nothing else: PyTorch's backward pass
refuses to work in a process whose parent has used it in some ways.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

OVERRIDES = {  # everything that draws random numbers is on: order, crops, mixup, drop path
    "data.scenes.num_train": 48,
    "data.scenes.num_val": 10,
    "data.scenes.size": 32,
    "data.image_size": 32,
    "data.batch_size": 8,
    "data.augment.mixup": 0.5,
    "data.augment.flip": 0.5,
    "model.drop_path_rate": 0.2,
    "trainer.max_epochs": 3,
    "trainer.checkpoint_minutes": 0,
}


def started(function, *args) -> Any:
    """A process that runs a function of this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sgformer.commands.train"])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def run(out: Path, resume: Path | None, fatal: set[int]) -> None:
    """Trains, quietly, and is killed before some of its checkpoints, counted from 0, get their name."""
    import torch

    from sgformer.commands.train import train

    replace, count = os.replace, iter(range(1000))

    def replace_or_die(source, target):
        if str(target).endswith("last.ckpt") and next(count) in fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    train("smoke", OVERRIDES, out=out, resume=resume)


def go_on_with_small_files(folder: Path, limit: int, errors: Path) -> None:
    """Resumes a run by the command line while no file may be larger than a number of bytes, as on a full disk."""
    import resource

    import sgformer_cli as cli

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.stderr = errors.open("w")
    sys.exit(cli.run(["train", "smoke", "--resume", str(folder), "--trainer.max_epochs", "2"]))
