"""What the tests of Triton kernels share: where they run, and the rule of errors.

Kernels run on a GPU where there is one, else in Triton's interpreter, for which a variable must be set before triton is
imported for the first time: `test_triton.py` runs their files in a process of its own.
"""

import os

import pytest
import torch

HERE = os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def cases(every, few):
    """Every case on a GPU; in the interpreter, which takes a thousand times as long, few."""
    return every if DEVICE == "cuda" else few


needs_kernels = pytest.mark.skipif(not HERE, reason="no GPU; test_triton.py runs this file in the interpreter")


def check_errors(fast, plain, exact, names):
    """At most twice the error of plain PyTorch in the same dtype, by the norm, beside a rounding of each number."""
    for name, f, p, e in zip(names, fast, plain, exact, strict=True):
        assert f.dtype == p.dtype, name
        assert f.shape == p.shape, name
        # Of gradients, differences that plain code cancels exactly at times, a rounding of their terms.
        size = max(e.abs().max(), 8) if name.startswith("grad") else e.abs().max()
        rounding = torch.finfo(f.dtype).eps * size * e.numel() ** 0.5
        assert (f - e).norm() <= 2 * (p - e).norm() + rounding, name


def check_frozen(function, *inputs):
    """Each input alone gets the gradient that it gets beside the others; those that are frozen get none."""

    def gradients(wanted):
        leaves = [x.detach().clone().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        out = function(*leaves)
        out.backward(torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out))
        return [leaf.grad for leaf in leaves]

    together = gradients(range(len(inputs)))
    for i in range(len(inputs)):
        alone = gradients([i])
        assert [place for place, grad in enumerate(alone) if grad is not None] == [i]
        torch.testing.assert_close(alone[i], together[i])


class nan_in_new_memory:
    """Within it, memory from `empty` holds NaN, so that what a kernel reads unwritten shows."""

    def __enter__(self):
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *exception):
        torch.use_deterministic_algorithms(False)
