"""The floors of pyproject.toml: which they are, and that each task trains and is exported with them."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from sgformer.commands.train import train
from sgformer.exporters.formats import FORMATS

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_are_those_that_are_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = ("predict", "train", "detection", "segmentation", "export", "demo")
    floors = dict(
        re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", each).groups()  # pyright: ignore[reportOptionalMemberAccess]
        for each in [*project["dependencies"], *(each for name in names for each in extras[name])]
        if not each.startswith("sgformer[")
    )
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    for name, floor in floors.items():
        version = pinned[name.lower().replace("_", "-")]
        assert version == floor or version.startswith(f"{floor}.0"), (name, floor, version)
    for kind in FORMATS.values():
        assert kind.oldest.items() <= floors.items()
    assert project["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)


@pytest.mark.exhaustive
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_a_short_run_of_each_task_and_its_export(task, tmp_path):
    from sgformer.commands.export import export

    short = {"trainer.max_epochs": 1, "trainer.report": False, "trainer.tensorboard": False}
    folder = train(f"{task}/smoke", short, out=tmp_path)
    assert folder is not None
    export(folder, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 10_000
