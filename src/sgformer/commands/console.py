"""Console output of all commands: tables, progress, and the choice of a device."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def is_terminal() -> bool:
    """Whether output goes to a terminal."""
    from rich import get_console

    return get_console().is_terminal


def waiting(text: str) -> contextlib.AbstractContextManager[object]:
    """Show a status line of the first process, on a terminal."""
    from rich import get_console

    later = any(int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return contextlib.nullcontext() if later or not is_terminal() else get_console().status(text)


def track(items: Iterable[T], text: str, *, total: float | None = None, device: "torch.device") -> Iterator[T]:
    """The items, with a progress bar on a terminal, and as many threads to compute as do not wait for each other."""
    from rich.progress import track

    with choosing_threads(device) as before_step:
        for item in track(items, text, total=total, transient=True, disable=not is_terminal()):
            before_step()
            yield item


def choosing_threads(device: "torch.device") -> contextlib.AbstractContextManager[Callable[[], None]]:
    """`engine.threads.choosing` for a command."""
    from ..engine.threads import choosing

    return choosing(device, lambda line: print(f"sgformer: {line}", file=sys.stderr))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns: numbers to the right, all else to the left; readable when piped, too."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(heads))]
    for line in lines:
        cells = (
            f"{cell:{'>' if right else '<'}{width}}" for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip())


def device(name: str) -> str:
    """The device that a name stands for: ``auto`` is a GPU where there is one."""
    import torch

    if name != "auto":
        try:
            return str(torch.zeros((), device=name).device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {name!r} cannot be used here; try --device cpu") from error
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def kernels(wanted: bool, device: str) -> contextlib.AbstractContextManager[object]:
    """Make kernels at once, if asked to, and have `sgformer.fast.use_kernels` hold within the context that is returned.

    Raises:
        ValueError: if there are none for the device, or they cannot be made here.
    """
    if not wanted:
        return contextlib.nullcontext()
    import sgformer

    if device != "cpu":
        raise ValueError(f"kernels are for a CPU, and this computes on {device}; leave them out, or add --device cpu")
    with waiting("compiling kernels ..."), sgformer.fast.use_kernels() as made:
        if made.objection:
            raise ValueError(f"there are no kernels: {made.objection}; or leave them out")
    return _with_kernels()


@contextlib.contextmanager
def _with_kernels() -> Iterator[None]:
    import sgformer

    with sgformer.fast.use_kernels():
        yield


def _is_number(text: str) -> bool:
    return text[:1].isdigit() and text.rstrip("%KMG").replace(".", "").replace(",", "").isdigit()
