"""Batches that are computed a few images at a time give what they give as a whole, gradients included."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from backbone import fill
from sgformer.backbone.stem import Stem
from sgformer.ops import convolved_projection, pieces


@pytest.fixture
def two_at_a_time(monkeypatch):
    """Every batch is large, and two of five images are a piece; what was cut is counted."""
    monkeypatch.setattr(pieces, "MAX_WHOLE", 0)
    monkeypatch.setattr(pieces, "MAX_BATCH", 0)
    calls = []

    def two(x, size):
        at_once = pieces.few_images(x, size)
        calls.append(at_once)
        return at_once and 2

    for module in ("sgformer.ops.convolved_projection", "sgformer.fast.batches"):
        monkeypatch.setattr(sys.modules[module], "few_images", two)
    return calls


def with_gradients(function, inputs):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    return [out, *torch.autograd.grad(out.square().sum(), inputs)]


def test_how_many_images_fit():
    x = torch.zeros(8, 1)
    assert pieces.few_images(x, pieces.MAX_BATCH) is None
    assert pieces.few_images(x, 4 * pieces.PIECE) == 2
    assert pieces.few_images(x, 100 * pieces.PIECE) == 1
    assert pieces.few_images(x[:1], 100 * pieces.PIECE) is None  # a single image is not cut
    assert pieces.few_images(x.to("meta"), 4 * pieces.PIECE) is None


@pytest.mark.parametrize("prepared", [False, True])
def test_an_mlp_in_pieces(prepared, two_at_a_time):
    shapes = (5, 3, 4, 8), (8, 1, 3, 3), (8,), (6, 8), (6,), (8, 8)

    def project(x, conv_weight, conv_bias, weight, bias, first):
        rest = conv_weight, conv_bias, weight, bias
        if prepared:
            return convolved_projection(x, *rest, prepare=F.linear, parameters=(first,))
        return convolved_projection(F.linear(x, first), *rest)

    def whole(x, conv_weight, conv_bias, weight, bias, first):
        hidden = F.linear(x, first)
        convolved = F.conv2d(hidden.permute(0, 3, 1, 2), conv_weight, conv_bias, padding=1, groups=8)
        return F.linear(F.gelu(hidden + convolved.permute(0, 2, 3, 1)), weight, bias)

    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    for mine, expected in zip(with_gradients(project, inputs), with_gradients(whole, inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    assert None not in two_at_a_time


def test_a_stem_in_pieces(two_at_a_time, monkeypatch):
    stem = fill.fill_(Stem(3, 8, grid_size=(8, 8))).double()
    x = torch.randn(5, 3, 32, 40, dtype=torch.float64)
    mine = with_gradients(lambda x, *_: stem(x), [x])
    assert two_at_a_time
    monkeypatch.setattr(pieces, "MAX_BATCH", 2**30)
    for a, b in zip(mine, with_gradients(lambda x, *_: stem(x), [x]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


THREADS = """
import threading
from pathlib import Path
import torch
from sgformer.ops.pieces import keep_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

def work(megabytes, done, end):
    torch.zeros(megabytes * 2**18)  # freed at once
    done.set()
    end.wait()

keep_freed_memory()
torch.zeros(28 * 2**18)
before, end = resident(), threading.Event()
for megabytes in (24, 20, 16, 12):
    done = threading.Event()
    threading.Thread(target=work, args=(megabytes, done, end)).start()
    done.wait()
print(resident() - before)
end.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is for the C library of Linux")
def test_threads_share_the_memory_that_is_kept():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20  # megabytes; with a heap for each thread it is 72


AGAIN = """
import resource
import torch
from sgformer.ops.pieces import is_kept, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

assert not is_kept()
keep_freed_memory()
assert is_kept()
torch.ones(100 * 2**18)  # 100 MB, freed at once
before = faults()
torch.ones(99 * 2**18)  # glibc aligns pieces, and finds no room in one of the same size
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is for the C library of Linux")
def test_freed_memory_is_used_again_however_large():
    done = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # pages; all of it are 25,344
