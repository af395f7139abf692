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
# Of glibc's `mallopt`: from what size on free memory is given back, how many pieces may be apart from the heap, and how
# many heaps there may be.
MALLOC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_MAX": (-4, 0), "M_ARENA_MAX": (-8, 1)}

_is_kept = False


def keep_freed_memory() -> None:
    """Lets the C library of Linux keep freed memory rather than give it back, in one heap for all threads.

    Left to itself it gives large pieces back, and gets them anew a moment later; and what a thread freed, no other
    thread gets. For programs, which own their process, before they start threads: the command line calls it, no import
    does. It holds until the process ends, which keeps the most that it ever had. In runs in turns, an image of
    2048x2048 took a tenth less time with it; models with larger maps gain more (`docs/benchmarks.md`).
    """
    global _is_kept
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # glibc has it
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)
        _is_kept = True


def is_kept() -> bool:
    """Whether freed memory is kept: a map then costs no fresh memory, and larger ones are better whole."""
    return _is_kept


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
