"""Devices and processes of a run, and whether they have instructions for bfloat16."""

from typing import Any

import torch
from torch import Tensor


def num_processes(devices: int | str, num_nodes: int = 1) -> int:
    """Count the processes of a run; ``devices`` is a number, GPUs by number with commas between, or auto: one a GPU."""
    if devices == "auto":
        return max(torch.cuda.device_count(), 1) * num_nodes
    text = str(devices)
    return (len(text.split(",")) if "," in text else int(text)) * num_nodes


def share(batch_size: int, num_processes: int) -> int:
    """Divide a total batch size by the processes; ValueError where it does not divide."""
    if batch_size % num_processes:
        lower = batch_size - batch_size % num_processes
        raise ValueError(
            f"data.batch_size {batch_size} is that of all processes together and does not divide among "
            f"{num_processes} (trainer.devices times trainer.num_nodes); set --data.batch_size "
            f"{f'{lower} or ' if lower else ''}{lower + num_processes}"
        )
    return batch_size // num_processes


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes of a run; itself where there is one. All take part."""
    if not _several():
        return values
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def gathered(value: Any) -> list[Any]:
    """The value that each process of a run has, by rank, in all of them. All take part."""
    if not _several():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def check(accelerator: str, devices: int | str, *, sync_batch_norm: bool = False) -> None:
    """Make sure that there are as many GPUs as a recipe asks for, before anything is written; else ValueError."""
    num = torch.cuda.device_count()
    if sync_batch_norm and (accelerator == "cpu" or not num):
        raise ValueError(
            "trainer.sync_batch_norm: PyTorch takes batch norms over several processes on GPUs alone; set it to false"
        )
    mps = torch.backends.mps.is_available() and accelerator != "cuda"
    if accelerator in ("gpu", "cuda", "mps") and not mps and (not num or accelerator == "mps"):
        raise ValueError(
            f"trainer.accelerator {accelerator}: PyTorch finds none on this machine; set --trainer.accelerator cpu"
        )
    if accelerator == "auto" and not num and not mps and num_processes(devices) > 1:
        raise ValueError(
            f"trainer.devices {devices}: PyTorch finds no GPU on this machine; set --trainer.devices 1, or "
            "--trainer.accelerator cpu for so many processes on the CPU"
        )
    if num and accelerator != "cpu" and isinstance(devices, int) and devices > num:
        raise ValueError(
            f"trainer.devices {devices}: this machine has {num} GPUs; set --trainer.devices {num}, or auto for one "
            "process each"
        )


def has_bfloat16(accelerator: str) -> bool:
    """Whether what a run computes on has instructions for bfloat16; without them it is slower than float32."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator in ("gpu", "mps") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return processor_has_bfloat16()


def processor_has_bfloat16() -> bool:
    """Tell whether the processor has instructions for bfloat16."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.9 has it not
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
