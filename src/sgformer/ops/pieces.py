"""Maps on a CPU that are better computed a piece at a time.

What does not fit the cache goes to memory and comes back for each operation, and a new large tensor is fresh memory
that the system clears page by page, which may take longer than the operation. Pieces are small enough for both.
"""

import ctypes
import sys

import torch
import torch.nn as nn
from torch import Tensor

from .dispatch import is_transformed

# A map of more numbers than this is cut: 4 MB in float32.
MAX_WHOLE = 2**20
# A batch whose largest map has more is computed a few images at a time: 8 MB.
MAX_BATCH = 2**21
# Numbers in the largest map of a few images that are computed together: 4 MB in float32.
PIECE = 2**20
# Of glibc's `mallopt`: how many heaps there may be.
M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Lets the C library of Linux keep freed memory rather than give it back, in one heap for all threads.

    Left to itself it gives large pieces back, and gets them anew a moment later; and what a thread freed, no other
    thread gets. For programs, which own their process, before they start threads: the command line calls it, no import
    does. It holds until the process ends. In one measurement, training steps of `sgformer_t` took a seventh to a fifth
    less processor time with it.
    """
    # It gives back what is larger than anything that was freed before, up to 32 MB. These are 31 MB, never touched.
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # glibc has it
        mallopt(M_ARENA_MAX, 1)


def pays(x: Tensor, size: int) -> bool:
    """Whether a map of `size` numbers, on the device of `x`, is better cut."""
    return (
        not torch.compiler.is_compiling()  # first: an exporter would take the answers to the rest for granted
        and not torch.jit.is_tracing()
        and size > MAX_WHOLE
        and x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)  # and no fake one, which has no numbers
        and not is_transformed()
    )


def few_images(x: Tensor, size: int) -> int | None:
    """Choose how many images of a batch are computed together, where the largest map of all has `size` numbers.

    None for all of them.
    """
    if not pays(x, size) or size <= MAX_BATCH or len(x) <= 1:  # `pays` first: see there
        return None
    return max(1, PIECE * len(x) // size)
