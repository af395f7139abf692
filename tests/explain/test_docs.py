"""What the pages on explaining and exporting show is so: their Python runs, their commands parse."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from sgformer import cli

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


COMMANDS = [
    line
    for page in ("explain.md", "export.md")
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if line.startswith("sgformer ")
]


def test_python_of_the_page_on_explaining_runs(capsys):
    found = blocks("explain.md", "python")
    assert found
    for text in found:
        exec(compile(text, "docs/explain.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.startswith("stage 1, pair 1 (30, 40) (30, 40) ")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(monkeypatch, command):
    verb, *rest = shlex.split(command)[1:]
    module = importlib.import_module(f"sgformer.commands.{verb}")
    given = {}
    monkeypatch.setattr(module, verb, lambda **values: given.update(values))
    assert cli.run([verb, *rest]) == 0
    assert given["weights"]


@pytest.mark.parametrize("page", ["explain.md", "export.md", "significance.md"])
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)\)", (DOCS / page).read_text(encoding="utf-8"))
    assert [link for link in links if ":" not in link and not (DOCS / link).exists()] == []
