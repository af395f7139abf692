"""The package keeps to its layers: which folder imports which, no circles, nothing left over."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sgformer"

# Which part of the package may import which; itself it always may. "" is the package's own `__init__.py`, and
# "lazy" an import that does not happen when the module is imported. DESIGN.md shows the same table.
ARROWS: dict[str, set[str]] = {
    "ops": set(),
    "engine": set(),
    "fonts": set(),
    "explanations": {"fonts", "engine.modes"},
    "backbone": {"ops"},
    "fast": {"backbone", "ops"},
    "tasks": {"engine", "fonts", "ops.native"},
    "report": set(),
    "exporters": {"engine.quiet", "backbone.ranking", "fast.exported", "tasks"},
    "benchmark": {""},
    "commands": {*("", "tasks", "engine", "explanations", "report", "exporters", "benchmark"), "backbone.official"},
    "__init__": {"backbone", "fast", "ops", "lazy tasks", "lazy commands"},
    "__main__": set(),
}


class Arrow(NamedTuple):
    """One import: from a module to another, each in dots without the package's name."""

    source: str
    target: str
    lazy: bool
    line: int


def arrows(package: Path) -> Iterator[Arrow]:
    """All imports of the package from itself, also within functions and by a module's name in a string."""
    files = {_module(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
    for source, path in files.items():
        here = source.split(".") if source else []
        folder = here if path.name == "__init__.py" else here[:-1]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        deferred = {id(child) for node in ast.walk(tree) if _defers(node) for child in ast.walk(node)}
        for node in ast.walk(tree):
            for target in _targets(node, folder, package.name, files):
                lazy = id(node) in deferred or isinstance(node, ast.Constant)
                yield Arrow(source, target, lazy, getattr(node, "lineno", 0))


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _defers(node: ast.AST) -> bool:
    """Whether what is below the node does not run on import: a function's body, or `if TYPE_CHECKING`."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _targets(node: ast.AST, folder: list[str], package: str, files: dict[str, Path]) -> Iterator[str]:
    def inside(name: str) -> str | None:
        return name.removeprefix(package).removeprefix(".") if f"{name}.".startswith(f"{package}.") else None

    if isinstance(node, ast.Import):
        yield from (target for alias in node.names if (target := inside(alias.name)) is not None)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            base = ".".join([*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]).strip(".")
        elif (found := inside(node.module or "")) is None:
            return
        else:
            base = found
        for alias in node.names:
            module = f"{base}.{alias.name}".strip(".")
            yield module if module in files else base
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        target = inside(node.value)
        if target and target in files:
            yield target


def violations(package: Path) -> list[str]:
    """The arrows that are not allowed, as sentences."""
    tasks = {path.parent.name for path in package.glob("tasks/*/__init__.py")}
    return [
        f"{arrow.source or '__init__'}, line {arrow.line}: {reason}"
        for arrow in arrows(package)
        if (reason := _why_not(arrow, tasks))
    ]


def _why_not(arrow: Arrow, tasks: set[str]) -> str | None:
    source, target = arrow.source.split("."), arrow.target.split(".")
    part = source[0] or "__init__"
    if part not in ARROWS:
        return f"{part} is not in the table of parts; add it there and to DESIGN.md"
    if source[0] == target[0]:
        return _why_not_between_tasks(source, target, arrow.lazy, tasks) if part == "tasks" else None
    for allowed in ARROWS[part]:
        name = allowed.removeprefix("lazy ")
        if f"{arrow.target}.".startswith(f"{name}.") if name else not arrow.target:
            if arrow.lazy or not allowed.startswith("lazy "):
                return None
            return f"imports {arrow.target} at once; import it where it is used"
    return f"{part} must not import {arrow.target or 'the package itself'}"


def _why_not_between_tasks(source: list[str], target: list[str], lazy: bool, tasks: set[str]) -> str | None:
    """Modules directly in tasks/ are shared; a folder there is a task: it knows itself and what is shared."""
    mine, theirs = (next((name for name in module[1:2] if name in tasks), None) for module in (source, target))
    if theirs is None or theirs == mine:
        return None
    if source == ["tasks"]:  # the registry names every task, and imports it when it is asked for
        return None if lazy else f"imports the task {theirs} at once; import it where it is asked for"
    if (mine, theirs) == ("pretrain", "classification"):  # what pretraining makes is a classifier
        return None
    return f"{mine or 'what tasks share'} must not import the task {theirs}"


def test_arrows_point_down():
    assert violations(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle():
    at_once: dict[str, set[str]] = {}
    for arrow in arrows(PACKAGE):
        if not arrow.lazy and not f"{arrow.source}.".startswith(f"{arrow.target}."):  # a package is no module
            at_once.setdefault(arrow.source, set()).add(arrow.target)
    TopologicalSorter(at_once).prepare()  # raises CycleError, which names them


# Modules that are found by the name of a command, of a format, or of a task.
FOUND_BY_NAME = re.compile(r"commands\.\w+|exporters\.formats\.\w+|tasks\.\w+\.(evaluation|export|task)|__main__|")


def test_no_module_is_left_over():
    wanted = {arrow.target for arrow in arrows(PACKAGE)}
    modules = {_module(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    parents = {target.rsplit(".", i)[0] for target in wanted for i in range(target.count(".") + 1)}
    assert {name for name in modules - wanted - parents if not FOUND_BY_NAME.fullmatch(name)} == set()


def test_every_part_of_the_package_has_its_row():
    parts = {_module(path.relative_to(PACKAGE)).split(".")[0] or "__init__" for path in PACKAGE.rglob("*.py")}
    assert parts <= ARROWS.keys()


# A house in order, in which the tests below break one thing at a time.
HOUSE = {
    "__init__.py": "from .backbone import SGFormer\ndef load(path):\n    from .tasks import load\n",
    "__main__.py": "from sgformer_cli import main\n",
    "ops/__init__.py": "from .merge.api import merge\n",
    "ops/merge/__init__.py": "",
    "ops/merge/api.py": "import torch\nfrom ..dispatch import choose\nfrom . import reference\n",
    "ops/merge/reference.py": "",
    "ops/dispatch.py": "",
    "backbone/__init__.py": "from .sgformer import SGFormer\n",
    "backbone/sgformer.py": "from ..ops import merge\n",
    "backbone/official.py": "from .sgformer import SGFormer\n",
    "engine/__init__.py": "",
    "engine/weights.py": "",
    "explanations/__init__.py": "",
    "tasks/__init__.py": "TASKS = {'classification': 'sgformer.tasks.classification'}\n",
    "tasks/images.py": "",
    "tasks/classification/__init__.py": "from .model import Classifier\n",
    "tasks/classification/model.py": "from ...engine import weights\nfrom ..images import read\n",
    "tasks/detection/__init__.py": "",
    "commands/__init__.py": "",
    "commands/train.py": "from ..tasks import get\nfrom ..backbone.official import from_official\n",
}


def _build(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "sgformer"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


def test_a_house_in_order_has_no_violations(tmp_path):
    assert violations(_build(tmp_path, HOUSE)) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("ops/dispatch.py", "from ..backbone import SGFormer", "ops must not import backbone"),
        ("ops/merge/reference.py", "import sgformer", "ops must not import the package itself"),
        ("ops/merge/reference.py", "from ... import __version__", "ops must not import the package itself"),
        ("ops/dispatch.py", "def f():\n    import sgformer.engine.weights", "ops must not import engine"),
        ("backbone/sgformer.py", "from sgformer.tasks import images", "backbone must not import tasks.images"),
        ("engine/weights.py", "from .. import tasks", "engine must not import tasks"),
        ("engine/weights.py", "TASK = 'sgformer.tasks.classification'", "engine must not import tasks"),
        ("explanations/__init__.py", "from ..backbone import SGFormer", "explanations must not import backbone"),
        ("tasks/detection/__init__.py", "from ..classification.model import Classifier", "detection must not"),
        ("tasks/detection/__init__.py", "from .. import classification", "detection must not import the task"),
        ("tasks/images.py", "from .classification import Classifier", "what tasks share must not"),
        ("tasks/__init__.py", "from . import classification", "imports the task classification at once"),
        ("tasks/images.py", "from ..backbone.official import from_official", "tasks must not import backbone"),
        ("commands/train.py", "from ..backbone.sgformer import SGFormer", "commands must not import backbone"),
        ("commands/train.py", "from ..backbone import sgformer", "commands must not import backbone"),
        ("__init__.py", "from .tasks import load", "imports tasks at once"),
        ("__init__.py", "def f():\n    from .engine import weights", "__init__ must not import engine"),
        ("__main__.py", "from .commands import train", "__main__ must not import commands"),
        ("helpful.py", "from .ops import merge", "helpful is not in the table of parts"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, line, message):
    package = _build(tmp_path, HOUSE | {file: f"{HOUSE.get(file, '')}{line}\n"})
    found = violations(package)
    assert len(found) == 1, found
    assert message in found[0]
