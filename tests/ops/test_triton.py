"""The Triton kernels where there is no GPU: their tests in Triton's interpreter, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.kernels import HERE
from sgformer.ops import tiles

FILES = sorted(Path(__file__).parent.glob("test_triton_*.py"))
SHARES = [FILES[::2], FILES[1::2]]  # each process has to load PyTorch first, so there are no more than two


@pytest.mark.skipif(HERE or tiles.triton is None, reason="kernels run in this very process, or triton is missing")
@pytest.mark.parametrize("files", SHARES, ids=lambda files: ", ".join(file.stem for file in files))
def test_kernels_in_the_interpreter(files):
    """The variable must be set before triton is imported for the first time, so it takes a fresh process."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
