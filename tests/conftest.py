import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Commands and runs keep their threads, however busy the machine is: what they print and compute must not depend on it.
os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))


def pytest_collection_modifyitems(items):
    """The longest tests, whole runs in several processes, come first: at the end one would keep a core idle."""
    items.sort(key=lambda item: "engine" not in item.path.parts and item.path.name != "test_triton.py")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the specification and its parity cases, which lies beside the repository where it exists."""
    path = Path(os.environ.get("SGFORMER_SHARED", Path(__file__).parents[2] / "shared"))
    if not (path / "parity").is_dir():
        pytest.skip(f"no parity cases in {path}; set SGFORMER_SHARED to the folder that holds parity/")
    return path


@pytest.fixture
def onnx_script(tmp_path) -> Path:
    """The script in docs/export.md that runs an exported classifier."""
    return _script(tmp_path, 0)


@pytest.fixture
def detector_script(tmp_path) -> Path:
    """That which runs an exported detector."""
    return _script(tmp_path, 1)


def _script(folder: Path, number: int) -> Path:
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    path = folder / "run_onnx.py"
    path.write_text(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[number], "utf-8")
    return path


@pytest.fixture
def run_alone():
    """Runs a script in a fresh interpreter that cannot import this package, torch or timm; returns what it prints."""

    def run(script: Path, *arguments) -> str:
        code = (
            "import runpy, sys\n"
            "sys.modules.update(dict.fromkeys(('sgformer', 'torch', 'timm')))\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        command = [sys.executable, "-c", code, *map(str, (script, *arguments))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
