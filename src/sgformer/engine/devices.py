"""What a run can compute on, and whether that has instructions for bfloat16."""

import torch


def check(accelerator: str, devices: int | str) -> None:
    """Make sure that there are as many GPUs as asked for, before anything is written.

    Args:
        accelerator: The recipe's, such as ``gpu``.
        devices: The recipe's, such as 8.

    Raises:
        ValueError: There are fewer, or none.
    """
    num = torch.cuda.device_count()
    mps = torch.backends.mps.is_available() and accelerator != "cuda"
    if accelerator in ("gpu", "cuda", "mps") and not mps and (not num or accelerator == "mps"):
        raise ValueError(
            f"trainer.accelerator {accelerator}: PyTorch finds none on this machine; set --trainer.accelerator cpu"
        )
    if num and accelerator != "cpu" and isinstance(devices, int) and devices > num:
        raise ValueError(
            f"trainer.devices {devices}: this machine has {num} GPUs; set --trainer.devices {num}, or auto for one "
            "process each"
        )


def has_bfloat16(accelerator: str) -> bool:
    """Whether what a run computes on has instructions for bfloat16; without them it is slower than float32.

    Args:
        accelerator: The recipe's.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator in ("gpu", "mps") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    return processor_has_bfloat16()


def processor_has_bfloat16() -> bool:
    """The same for the processor."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # unknown to older PyTorch
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
