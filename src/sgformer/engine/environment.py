"""Description of the environment of a run or a measurement."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

_PACKAGES = "sgformer torch torchvision timm lightning torchmetrics safetensors pillow numpy".split()  # noqa: SIM905


def environment() -> dict[str, Any]:
    """Describe what this process runs on, for JSON: versions, machine, git commit, command."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name, as Linux knows it, or else Python; and the widest instructions that PyTorch uses of it.

    With matrix units, which compute bfloat16 many times as fast, it is another machine than one that hides them.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    matrices = any(line.startswith("flags") and " amx_bf16" in line for line in lines)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" + ", AMX" * matrices


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
