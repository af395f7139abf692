import os
from pathlib import Path

import pytest
import torch


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
