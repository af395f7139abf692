"""Pieces of work shared out to threads, each of which works through its own alone.

Left to itself, PyTorch has all threads work at each operation, and at its end they wait for the slowest, busily: on a
machine that others use, too, the slowest is one whose core was given away, and all others burn theirs until it comes
back. There are thousands of operations in a large map. Here a thread takes a strip of the map, or an image, through all
operations by itself, and sleeps where there is nothing to do. PyTorch's threads go on looking for work for milliseconds
after each operation that they shared, on the cores of those that take strips; so what lies between the strips is one
thread's work, too. The threads are kept; those of a user are left as they are.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from ..ops.dispatch import is_watched
from .conditions import observed_within

T = TypeVar("T")

_lock = threading.Lock()
_conducting = threading.local()  # in a thread that conducts, `threads`: how many work at the pieces


def each(task: Callable[..., T], pieces: Iterable[Sequence[Any]]) -> list[T]:
    """Run the task on each of the pieces, its arguments; returns the results in their order.

    As many threads as PyTorch would use work at them, each with PyTorch's operations to itself. Which thread takes
    which piece changes nothing of the results. Within a mode of PyTorch's, or its profiler, which see one thread only,
    that thread does it all. No gradient.
    """
    pieces = list(pieces)
    threads = getattr(_conducting, "threads", torch.get_num_threads())
    if threads == 1 or len(pieces) < 2 or is_watched():
        return [task(*piece) for piece in pieces]
    inference = torch.is_inference_mode_enabled()

    def run(piece: Sequence[Any]) -> T:
        with torch.inference_mode(inference), torch.no_grad():
            return task(*piece)

    with _lock:
        pool = _pool("pieces", threads)
    return list(pool.map(run, pieces))


def conducted(way: Callable[..., T], *, least: int = 0) -> Callable[..., T]:
    """Have a thread that leaves PyTorch's own asleep run a way, and call `each` in it.

    Hooks within the segment, the first argument, run where the user is: with them the way is as it was. Of a map of
    fewer numbers than `least`, the second argument, what lies between strips is shared out as ever.
    """

    @functools.wraps(way)
    def conduct(segment: torch.nn.Module, *inputs: torch.Tensor) -> T:
        threads = torch.get_num_threads()
        small = least > 0 and inputs[0].numel() < least
        if small or threads == 1 or is_watched() or any(observed_within(segment)):
            return way(segment, *inputs)
        inference = torch.is_inference_mode_enabled()

        def run() -> T:
            _conducting.threads = threads
            with torch.inference_mode(inference), torch.no_grad():
                return way(segment, *inputs)

        with _lock:
            pool = _pool("conductors", threads)
        return pool.submit(run).result()

    return conduct


@functools.cache
def _pool(purpose: str, threads: int) -> ThreadPoolExecutor:
    """Make a pool of that many threads for each purpose, in each of which PyTorch uses one."""
    pool = ThreadPoolExecutor(threads, f"sgformer {purpose}")
    all_there = threading.Barrier(threads)

    def begin() -> None:
        torch.set_num_threads(1)  # of this thread, and of those that begin later
        torch.get_num_threads()  # settles it for this thread, which would else take over what is set below
        all_there.wait()

    for started in [pool.submit(begin) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(threads)  # so that the latter have what they would have had
    return pool


if hasattr(os, "register_at_fork"):  # a process that was forked has none of the threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
