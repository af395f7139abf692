"""The backbone on a GPU, with its kernels: held to the same rule as an op, the ranking held."""

import pytest
import torch

from backbone import fill
from ops.kernels import check_errors
from sgformer.backbone.ranking import hold_significance
from sgformer.ops.depthwise_conv import api as depthwise_conv
from sgformer.ops.dispatch import Backend
from sgformer.ops.key_mean_attention import api as key_mean_attention
from sgformer.ops.merge_tokens import api as merge_tokens
from sgformer.ops.window_attention import api as window_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
OPS = (depthwise_conv, key_mean_attention, merge_tokens, window_attention)
SIZES = [(64, 96, None), (97, 130, None), (97, 130, 20), (224, 224, None)]


def results(model, x, maps):
    """Logits, and the gradients of some parameters of every kind."""
    model.zero_grad()
    with hold_significance(model, [m.to(x.device) for m in maps]):
        out = model(x)
        out.float().square().sum().backward()
    names = ("stem.conv1.weight", "stages.0.blocks.0.mlp.conv.weight", "stages.0.blocks.1.attn.merge.0.weight")
    parameters = dict(model.named_parameters())
    return [out.detach().double(), *(parameters[name].grad.double() for name in names)]


def only_plain(monkeypatch):
    for api in OPS:
        monkeypatch.setattr(api, "BACKENDS", {"reference": api.BACKENDS["reference"]})


@pytest.mark.parametrize(("height", "width", "budget"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_as_precise_as_plain_code(dtype, height, width, budget, monkeypatch):
    model = fill.model("sgformer_test", num_classes=5, token_budget=budget)
    x = fill.image("gpu", 2, height, width)
    with torch.no_grad():
        maps = model.forward_significance(x)
    exact = [t.cuda() for t in results(model, x, maps)]
    model, x = model.to("cuda", dtype), x.to("cuda", dtype)
    fast = results(model, x, maps)
    only_plain(monkeypatch)
    plain = results(model, x, maps)
    for f, p, e in zip(fast, plain, exact, strict=True):
        assert (f - e).norm() <= 2 * (p - e).norm() + torch.finfo(dtype).eps * e.norm()


def test_every_op_takes_its_kernels(monkeypatch):
    """The plain ways may not run at all."""

    def refuse(*args):
        raise AssertionError("a plain way was taken")

    for api in OPS:
        plain = {name: Backend(refuse, b.why_not, b.why_slow) for name, b in api.BACKENDS.items() if name != "triton"}
        monkeypatch.setattr(api, "BACKENDS", {"triton": api.BACKENDS["triton"], **plain})
    model = fill.model("sgformer_test", num_classes=5).to("cuda", torch.bfloat16)
    x = fill.image("gpu", 2, 224, 224).to("cuda", torch.bfloat16)
    model(x).sum().backward()


@pytest.mark.parametrize("dynamic", [False, None])
def test_compiled_computes_the_same(dynamic):
    torch._dynamo.reset()
    model = fill.model("sgformer_test", num_classes=5, token_budget=60, dtype=torch.float32).cuda()
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for height, width in ((128, 160), (192, 128)):
        x = fill.image("gpu", 2, height, width).float().cuda()
        with torch.no_grad():
            maps = model.forward_significance(x)
            with hold_significance(model, maps):
                expected = model(x)
                torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-3)


def test_results_do_not_depend_on_which_program_is_first():
    """Nothing is added up by atomics: the same inputs give the same bits, gradients too."""
    model = fill.model("sgformer_test", num_classes=5, dtype=torch.float32).cuda()
    x = fill.image("gpu", 4, 224, 224).float().cuda()
    torch.backends.cudnn.deterministic = True
    try:
        runs = []
        for _ in range(3):
            with torch.no_grad():
                runs.append([model(x), *model.forward_significance(x)])
    finally:
        torch.backends.cudnn.deterministic = False
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


def test_the_rule_would_notice():
    """`check_errors` fails where a result is off."""
    e = torch.ones(10, dtype=torch.float64)
    with pytest.raises(AssertionError):
        check_errors([e.float() * 1.01], [e.float()], [e], ["out"])
