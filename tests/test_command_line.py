"""The command line by itself, which answers what it can before anything large is imported."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sgformer
import sgformer_cli
from sgformer.engine import recipe
from sgformer_cli import VERBS, parser_of, run, signature

FOLDER = Path(sgformer_cli.__file__).parent


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        run([verb, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "Examples:" in printed
    assert f"sgformer {verb}" in printed.split("Examples:")[1].replace("\\\n", "")
    takes = signature.read(verb)
    assert max(map(len, takes.details.splitlines())) <= 80
    assert all(parameter.help for parameter in takes.parameters)


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_takes_is_what_its_function_takes(verb):
    """Read from its source alone."""
    does = importlib.import_module(f"sgformer.commands.{verb}")
    takes = signature.read(verb)
    parameters = dict(inspect.signature(getattr(does, verb, None) or getattr(does, f"{verb}_")).parameters)
    assert (parameters.pop("overrides", None) is not None) == takes.takes_overrides
    assert [parameter.name for parameter in takes.parameters] == [*parameters]
    for parameter in takes.parameters:
        default = parameters[parameter.name].default
        assert parameter.required == (default is inspect.Parameter.empty)
        assert parameter.required or parameter.default == default


def test_annotations_decide_how_an_argument_is_read():
    parser = parser_of("predict", signature.read("predict"))
    read = vars(parser.parse_args(["weights", "a", "b", "--top-k", "4", "--scales", "0.5,1", "--no-flip"]))
    assert read["images"] == ["a", "b"]
    assert (read["top_k"], read["scales"], read["flip"], read["device"]) == (4, [0.5, 1.0], False, "auto")
    timed = vars(parser_of("benchmark", signature.read("benchmark")).parse_args(["m", "--mode", "training"]))
    assert (timed["mode"], timed["time"], timed["together"]) == (["training"], True, False)
    with pytest.raises(SystemExit, match="2"):
        parser_of("benchmark", signature.read("benchmark")).parse_args(["m", "--mode", "guessing"])


def test_options_are_taken_with_dashes_and_with_underscores(capsys):
    for option in ("--max_size=3", "--max-size=3"):
        assert run(["export", "nothing", "a.onnx", option, "--size", "64"]) == 2
        assert "nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(["predict", "nothing.safetensors", "a.png", "--top-k", "many"])
    assert "--top-k: invalid int value" in capsys.readouterr().err


def test_help_and_lists(capsys):
    assert run([]) == run(["--help"]) == run(["--version"]) == 0
    assert run(["list", "recipes"]) == run(["list", "models"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in VERBS)
    assert all(name in printed for name in recipe.names())
    assert re.search(r"sgformer_s +22\.5M +4\.78", printed)


def test_recipes_that_fit_a_pattern(capsys):
    assert run(["list", "recipes", "*/smoke"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [name for name in recipe.names() if name.endswith("/smoke")]
    assert run(["list", "recipes", "cakes"]) == 2
    assert "no recipe fits 'cakes'; see them all" in capsys.readouterr().err


def test_recipes_are_wrapped_to_a_terminal_only(capsys, monkeypatch):
    assert run(["list", "recipes"]) == 0
    plain = capsys.readouterr().out.splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["list", "recipes"]) == 0
    wrapped = capsys.readouterr().out.splitlines()
    assert max(map(len, plain)) > 80 >= max(map(len, wrapped))
    assert [line.split()[0] for line in wrapped if line[0] != " "] == list(recipe.names())
    assert " ".join(plain).split() == " ".join(wrapped).split()


def test_help_lists_and_mistakes_import_nothing_but_python():
    code = """
import contextlib, sys
import sgformer_cli

for verb in sgformer_cli.VERBS:
    with contextlib.suppress(SystemExit):
        sgformer_cli.run([verb, "--help"])
for command in (["--help"], ["--version"], ["list", "recipes"]):
    assert sgformer_cli.run(command) == 0
assert sgformer_cli.run(["trian"]) == 2
with contextlib.suppress(SystemExit):
    sgformer_cli.run(["predict"])
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert sgformer.__version__ in done.stdout
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"sgformer", "torch", "timm", "numpy", "yaml", "rich", "pydantic"} & loaded


def test_the_command_line_imports_python_s_own_modules_only():
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, path.name


def test_python_m_is_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sgformer", "--version"], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"sgformer {sgformer.__version__}\n"


def test_a_warning_is_one_line_of_words():
    own = sgformer_cli._warning("two faults left out", UserWarning, sgformer.__file__, 3)
    assert own == "sgformer: two faults left out\n"
    # One that a command gives is told of where it was called.
    assert sgformer_cli._warning("busy", UserWarning, sgformer_cli.__file__, 3) == "sgformer: busy\n"
    assert "UserWarning" in sgformer_cli._warning("careful", UserWarning, "elsewhere.py", 3)
