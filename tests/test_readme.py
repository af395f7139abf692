"""What README and docs show is so: their Python runs, their commands parse, their links and tables are right."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import timm

import sgformer  # noqa: F401 (registers our models with timm)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Extras that its snippets and commands need beyond torch and timm.
NEEDED = (
    *("lightning", "pydantic", "torchmetrics", "rich", "safetensors", "PIL", "skimage", "sklearn"),
    "segmentation_models_pytorch",
)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of a page's code blocks in a language."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match[1]) for match in found]


def commands(program: str, pages: list[Path] = PAGES) -> list[str]:
    """The shell commands of the pages that start with a program's name."""
    joined = [text.replace("\\\n", " ") for page in pages for _, text in blocks(page, "sh")]
    return [line for text in joined for line in text.splitlines() if line.startswith(f"{program} ")]


@pytest.fixture
def extras() -> None:
    for package in NEEDED:
        pytest.importorskip(package, reason=f"the README's examples need {package}")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks_run_in_order(extras, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for line, text in blocks(page, "python"):
        if "sys.argv" in text:  # a script of its own, which tests/commands/test_export.py runs
            continue
        # Padded with empty lines, so that an error names its line in the page.
        exec(compile("\n" * line + text, str(page), "exec"), namespace)
        printed = capsys.readouterr().out
        for promised in re.findall(r"^# (\[.*\])$", text, re.MULTILINE):
            assert promised in printed


def understands(sections: type, overrides: dict[str, str]) -> bool:
    from sgformer.engine import recipe as recipes

    try:
        recipes.parse({}, sections, overrides)
    except recipes.RecipeError:
        return False
    return True


@pytest.mark.parametrize("command", commands("sgformer"))
def test_commands_parse(extras, monkeypatch, command):
    import sgformer_cli as cli
    from sgformer import tasks
    from sgformer.engine import recipe as recipes

    arguments = shlex.split(command, comments=True)[1:]
    verb = arguments[0]
    assert verb in cli.VERBS
    # The command line does all of its work but the last step: calling the verb's function.
    module = importlib.import_module(f"sgformer.commands.{verb}")
    function = verb if hasattr(module, verb) else f"{verb}_"
    given = {}
    monkeypatch.setattr(module, function, lambda **values: given.update(values))
    assert cli.run(arguments) == 0
    overrides = given.get("overrides") or {}
    task, source = "classification", {"task": "classification"}
    if verb == "train" and not str(given["recipe"]).endswith(".yaml"):  # those are the reader's own
        source = recipes.find(given["recipe"])
        assert source.is_relative_to(recipes.FOLDER)
        task = recipes.task_of(source)
    if verb == "evaluate":  # of whichever task the weights are
        task = next(name for name in tasks.TASKS if understands(tasks.get(name).Recipe, overrides))
    if verb in ("train", "evaluate"):
        recipes.parse(source, tasks.get(task).Recipe, overrides)
    assert timm.is_model(overrides.get("model.name", "sgformer_s"))


def test_there_are_commands():
    readme = commands("sgformer", [ROOT / "README.md"])
    assert {"train", "evaluate", "predict", "convert"} <= {command.split()[1] for command in readme}


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {command.split()[1] for command in commands("make")}
    assert targets >= {"demo", "test"}
    assert targets <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_extras_exist():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"sgformer\[(\w+)\]", README):
        assert f"\n{extra} = [" in pyproject


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / f"{name}.md" for name in ("DESIGN", "CONTRIBUTING", "CHANGELOG"))], ids=str
)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_model_table_names_every_model_and_its_size():
    rows = dict(re.findall(r"^\| `(sgformer_\w+)` \| ([\d.]+)M \|", README, re.MULTILINE))
    sizes = {
        name: sum(parameter.numel() for parameter in timm.create_model(name, device="meta").parameters())
        for name in timm.list_models("sgformer*")
    }
    assert rows == {name: f"{size / 1e6:.2f}" for name, size in sizes.items()}
