"""Private names of other libraries: without them everything is computed, only not always fast."""

import subprocess
import sys

import pytest
import torch

from backbone import fill
from sgformer.backbone import recorded
from sgformer.fast import conditions, explain_ways, workers
from sgformer.ops import dispatch


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
    assert not workers._watched()
    monkeypatch.delattr(torch._C, name)
    assert workers._watched()


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
