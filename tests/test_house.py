"""The house keeps its own rules: what an import costs, how files are named, what docstrings say."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sgformer"

MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "misc", "helpers"}

# What must not be needed to build and run a model. torchvision may be, since timm imports it. PyTorch comes without
# triton for CPUs, macOS and Windows.
OPTIONAL = [
    "triton",
    *("lightning", "pytorch_lightning", "torchmetrics", "pydantic", "rich", "typer", "click"),
    *("skimage", "sklearn", "matplotlib", "pandas", "onnx", "onnxruntime"),
    *("transformers", "segmentation_models_pytorch", "pycocotools", "tensorboard", "webdataset"),
]


def _run_python(code: str) -> str:
    """What a fresh interpreter prints; the package is the one next to these tests."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_runs_without_any_optional_package():
    code = f"""
import sys

# A module that is None cannot be imported, nor is it found.
sys.modules.update(dict.fromkeys({OPTIONAL!r}))
import torch, timm, sgformer

model = timm.create_model("sgformer_test", num_classes=3).eval()
x = torch.randn(2, 3, 64, 48)
with torch.no_grad():
    print(tuple(model(x).shape), [tuple(map.shape) for map in model.forward_significance(x)])
"""
    assert _run_python(code).strip() == "(2, 3) [(2, 16, 12), (2, 8, 6), (2, 4, 3)]"


def test_importing_the_package_costs_no_more_than_torch_and_timm():
    code = """
import json, sys
import torch, timm

before = set(sys.modules)
empty = torch.empty
torch.empty = lambda *size, **how: sys.exit(f"allocates {size}") if size and size[0] > 2**20 else empty(*size, **how)
import sgformer

print(json.dumps(sorted(set(sys.modules) - before)))
"""
    loaded = json.loads(_run_python(code))
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - sys.stdlib_module_names <= {"sgformer", "torch", "timm"}
    parts = {name.split(".")[1] for name in loaded if name.startswith("sgformer.")}
    assert parts == {"backbone", "fast", "ops"}


def _source_files() -> list[Path]:
    folders = ("src", "tests", "benchmarks", "examples")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_no_source_file_is_long():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in _source_files()}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_no_file_is_a_drawer_for_everything():
    names = [path.relative_to(ROOT) for path in _source_files()]
    assert [str(name) for name in names if FORBIDDEN_NAMES & {*name.parts, name.stem}] == []


def test_pages_that_the_source_names_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert [page for page in re.findall(r"\bdocs/[\w/-]+\.md\b", text) if not (ROOT / page).is_file()] == []


def test_version_changelog_and_citation_agree():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    heading = re.search(r"^## \[([^]]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = re.search(r"^version: (\S+)$", citation, re.MULTILINE)
    assert version
    assert heading
    assert cited
    release, is_dev = re.subn(r"\.dev\d+$", "", version[1])
    assert heading[1] == cited[1] == release
    if is_dev:
        assert heading[2] == "unreleased"
        assert "date-released" not in citation
    else:
        assert f"date-released: {heading[2]}" in citation


def test_the_design_names_every_module_backend_and_way():
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    modules = {path for path in PACKAGE.rglob("*.py") if path.stem != "__init__" and path.parent.name != "commands"}
    assert sorted(path.name for path in modules if path.name not in text) == []
    keys = {
        key.value
        for path in (*PACKAGE.glob("ops/*.py"), *PACKAGE.glob("ops/*/api.py"), PACKAGE / "fast" / "__init__.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant)
        and isinstance(value, ast.Call)
        and ast.unparse(value.func) in ("Backend", "Way")
    }
    assert {"reference", "native", "strips"} <= keys
    assert sorted(key for key in keys if f"| `{key}` |" not in text) == []


# Such a first line leans on what stands around it; a hover box shows the docstring alone.
LEANING = re.compile(r"(The same|As|Of|What|Those|That of|How|Which)\b")


def test_docstrings_stand_alone():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                if LEANING.match(line):
                    found.append(f"{path.relative_to(PACKAGE)}, {getattr(node, 'name', 'module')}: {line}")
    assert found == []


def test_constraints_name_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = re.compile(r"[\w.-]+==[\w.!+]+")
    assert [line for line in lines if line and not line.startswith("#") and not pinned.fullmatch(line)] == []
