"""What people import: light to predict with, and a task that goes into one's own trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "name", ["load", "train", "evaluate", "predict", "export", "explain", "SGFormer", "hold_significance", "plain"]
)
def test_names_at_the_top_are_there_and_what_they_say(name):
    import sgformer

    assert name in sgformer.__all__
    assert getattr(sgformer, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        sgformer.no_such_name  # noqa: B018


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_task_goes_into_one_s_own_trainer(tmp_path):
    """As docs/training.md shows it."""
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    code = page.split("## In your own trainer")[1].split("```python\n")[1].split("```")[0]
    scope = {"__name__": "example"}
    exec(code.replace("runs/own", str(tmp_path / "own")), scope)
    assert scope["task"].trainer.global_step == 4
    assert scope["model"].predict(scope["data"].examples()[0]).label in scope["model"].classes


def test_commands_at_the_top_stay_functions_whatever_is_imported():
    """No folder of the package has the name of a command."""
    code = """
import pkgutil, importlib, sgformer
import sgformer.explanations.page, sgformer.exporters.parts, sgformer.commands.export, sgformer.commands.explain

for name in ("train", "evaluate", "predict", "export", "explain"):
    assert callable(getattr(sgformer, name)), name
print(sorted(module.name for module in pkgutil.iter_modules(sgformer.__path__) if module.name in sgformer.__all__))
"""
    assert run_python(code).strip() == "[]"
