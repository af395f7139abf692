"""Private names of other libraries: without them everything is computed, only not always fast."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbone import fill
from sgformer.backbone import recorded
from sgformer.fast import conditions, explain_ways
from sgformer.ops import dispatch

# Private names of other libraries for which there is no public one that serves as well.
GUARDED = {"timm.models._input", "torch._subclasses", "torch.nn.modules.module._has_any_global_hook", "torch._C"}
PUBLIC = {"torch._check"}  # in PyTorch's documentation of torch.export
PACKAGE = Path(recorded.__file__).parents[1]


def private_names(path):
    """(name, whether it is guarded) of each private name in a file that is imported, or belongs to what is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    guarded = {id(each) for node in nodes if isinstance(node, ast.Try) for each in node.body}
    for node in nodes:  # a getattr with a default
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) == 3:
            guarded |= {id(each) for each in ast.walk(node)}
    imported = {name.asname or name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"[\w.]+", name := ast.unparse(node)):
            names = [name] if name.split(".")[0] in imported else []
        else:
            continue
        for name in names:
            if private := re.match(r"[\w.]*?\._[A-Za-z]\w*", name):
                yield private[0], id(node) in guarded


def test_private_names_of_other_libraries_are_guarded():
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name, guarded in private_names(path)
        if name not in PUBLIC and not (guarded and name in GUARDED)
    }
    assert found == set()


@pytest.mark.parametrize(("module", "name"), [(conditions, "_has_any_global_hook"), (dispatch, "_transform")])
@torch.no_grad()
def test_who_cannot_tell_what_watches_takes_the_plain_way(module, name, monkeypatch):
    model, x = fill.model("sgformer_test"), fill.image("guards", 1, 64, 64)
    expected = model(x)
    assert {taken.way for taken in explain_ways(model, x)} != {"plain"}
    monkeypatch.setattr(module, name, None)
    assert {taken.way for taken in explain_ways(model, x)} == {"plain"}
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["_len_torch_dispatch_stack", "_len_torch_function_stack"])
def test_threads_wait_where_nobody_knows_what_is_watched(name, monkeypatch):
    assert not dispatch.is_watched()
    monkeypatch.delattr(torch._C, name)
    assert dispatch.is_watched()


def test_the_class_of_traced_weights_may_be_unknown():
    code = (
        "import torch._subclasses; del torch._subclasses.FakeTensor\n"
        "from sgformer.fast import conditions; print(conditions.FakeTensor.__name__)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "Parameter"


@torch.no_grad()
def test_a_timm_that_records_no_arguments_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(recorded, "update_model_args", None)
    monkeypatch.setattr(recorded, "update_model_input_size", None)
    model = fill.model("sgformer_test")
    model.set_token_budget(20)
    model.set_input_size((96, 64))
    assert model(fill.image("guards", 1, 96, 64)).isfinite().all()
