"""Blocks by the kernels in C++: the numbers of the plain definition, and no layer that is left out unasked."""

import collections
import contextlib

import pytest
import timm
import torch

import sgformer
from backbone import fill
from sgformer.backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from sgformer.backbone.blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock
from sgformer.fast import explain_ways, native, strips, use_kernels
from sgformer.fast.conditions import LAYERS
from sgformer.ops.native import library


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(library, "_library", None)
    if objection := use_kernels().objection:
        pytest.skip(objection)


def model_and_images(**options):
    model = timm.create_model(
        "sgformer_test", channels=(32, 32, 64, 64), num_heads=(2, 2, 2, 4), num_classes=7, **options
    ).eval()
    fill.fill_(model)
    x = torch.randn(2, 3, 90, 75)
    return model, x


@pytest.mark.parametrize("options", [{}, {"token_budget": 5}])
def test_a_model_computes_what_is_defined(options, monkeypatch):
    model, x = model_and_images(**options)
    with torch.no_grad(), sgformer.plain():
        maps = model.double().forward_significance(x.double())
        exact = model(x.double())
        model.float()
    order = iter(maps)
    # Rounding may swap tokens in a ranking, so all rank by the maps in float64; a hook would keep the kernels away.
    rank = native.rank_tokens
    monkeypatch.setattr(native, "rank_tokens", lambda significance: rank(next(order)))
    with torch.no_grad():
        ways = collections.Counter(taken.way for taken in explain_ways(model, x))
        assert ways["native"] == 7
        order = iter(maps)
        torch.testing.assert_close(model(x).double(), exact, rtol=1e-4, atol=1e-4)


def test_significance_is_what_is_measured():
    model, x = model_and_images()
    with torch.no_grad():
        found = model.forward_significance(x)[0]
        with sgformer.plain():
            expected = model.double().forward_significance(x.double())[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


BLOCKS = {
    "hybrid_scale": lambda budget: HybridScaleBlock(
        64, HybridScaleAttention(64, 2, stride=4, token_budget=budget), mlp_ratio=4, drop_path=0
    ),
    "self_guided": lambda budget: SelfGuidedBlock(
        64, SelfGuidedAttention(64, 4, group_sizes=(49, 14, 7), token_budget=budget), mlp_ratio=4, drop_path=0
    ),
    "global": lambda budget: GlobalBlock(64, GlobalAttention(64, 2, token_budget=budget), mlp_ratio=4, drop_path=0),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 15, 18), (1, 28, 28), (3, 1, 2), (1, 61, 33)])
@pytest.mark.parametrize("budget", [None, 5])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_computes_what_is_defined(kind, budget, size, dtype, threads, monkeypatch):
    block = fill.fill_(BLOCKS[kind](budget)).eval().to(dtype)
    x = torch.randn(*size, 64).to(dtype)
    inputs = (x, torch.randn(size)) if kind == "self_guided" else (x,)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with torch.no_grad():
        if reason := native.why_not(block, *inputs):
            pytest.skip(reason)
        found = native.block(block, *inputs)
        exact = block.double().plain(*(y.double() for y in inputs))
    if kind == "hybrid_scale":
        (found, significance), (exact, expected) = found, exact
        error = 1e-5 if dtype is torch.float32 else 1e-2
        torch.testing.assert_close(significance.double(), expected, rtol=error, atol=error)
    assert (found.double() - exact).norm() <= (3e-6 if dtype is torch.float32 else 1e-2) * exact.norm()


@pytest.mark.parametrize("size", [(2, 15, 18), (1, 28, 28), (3, 9, 5), (1, 61, 33)])
@pytest.mark.parametrize("budget", [None, 5])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_has_the_gradients_that_are_defined(kind, budget, size):
    block = fill.fill_(BLOCKS[kind](budget))
    x, wave = torch.randn(*size, 64), torch.randn(*size, 64)
    more = (torch.randn(size),) if kind == "self_guided" else ()
    results = []
    for dtype in (torch.float32, torch.float64):
        block.to(dtype)
        leaf = x.to(dtype).requires_grad_()
        with sgformer.plain() if dtype is torch.float64 else contextlib.nullcontext():
            out = block(leaf, *more)
            out = out[0] if isinstance(out, tuple) else out
            weights = [weight for weight in block.parameters() if weight.numel() > 1]
            results.append(torch.autograd.grad(out, [leaf, *weights], wave.to(dtype)))
    for found, exact in zip(*results, strict=True):
        assert (found.double() - exact).norm() <= 3e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_mlp_in_strips(dtype, monkeypatch):
    block = fill.fill_(BLOCKS["global"](None)).eval().to(dtype)
    layers = block.norm2, block.mlp.fc1, block.mlp.conv, block.mlp.fc2
    x = torch.randn(2, 61, 33, 64).to(dtype)
    monkeypatch.setattr(strips, "KERNEL_ROWS", 8)
    kernel, calls = strips.native.add_mlp_, []
    monkeypatch.setattr(strips.native, "add_mlp_", lambda *args: calls.append(kernel(*args)))
    with torch.no_grad():
        found = strips._add_mlp_(x.clone(), *layers)
        block.double()
        exact = x.double() + block.mlp(block.norm2(x.double()))
    assert (found.double() - exact).norm() <= (1e-6 if dtype is torch.float32 else 5e-3) * exact.norm()
    if dtype is torch.float32 or library._has_low_products:
        assert len(calls) == 2 * 8


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_model_has_kernels(dynamic):
    model, x = model_and_images()
    seen = []

    def look(graph, inputs):
        seen.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=look, dynamic=dynamic)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        assert sum(target.startswith("sgformer.block") for target in seen[0]) == 7
        compiled(torch.cat([x, x]))
        assert len(seen) == (1 if dynamic else 2)
        library._library = None
        compiled(x)
    assert not any(target.startswith("sgformer.block") for target in seen[-1])


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_layer_that_is_hooked_or_replaced_has_its_say(stage):
    model, x = model_and_images()
    with torch.no_grad():
        for index in range(len(model.stages[stage].blocks)):
            block = model.stages[stage].blocks[index]
            for name, child in block.named_modules():
                if not name or type(child) is torch.nn.ModuleList:
                    continue
                handle = child.register_forward_hook(lambda *_: None)
                taken = {t.segment: t for t in explain_ways(model, x)}
                handle.remove()
                assert taken[f"stages.{stage}.blocks.{index}"].way != "native", name
            assert {t.segment: t for t in explain_ways(model, x)}[f"stages.{stage}.blocks.{index}"].way == "native"


def test_gradients_and_large_maps_are_for_others(monkeypatch):
    model, x = model_and_images()
    assert "native" not in {taken.way for taken in explain_ways(model, x)}
    monkeypatch.setattr(native, "MAX_HIDDEN", 0)
    with torch.no_grad():
        assert "native" not in {taken.way for taken in explain_ways(model, x)}
    assert all("native" in kind.ways for kind in LAYERS if kind.__name__.endswith("Block"))


def test_weights_of_another_kind_are_for_others():
    model, x = model_and_images()
    blocks = model.stages[0].blocks
    blocks[0].mlp.fc1.weight.data = blocks[0].mlp.fc1.weight.data.t().contiguous().t()
    blocks[1].double()
    with torch.no_grad():
        y = model.stem(x).permute(0, 2, 3, 1).contiguous()
        assert "contiguous" in native.why_not(blocks[0], y)
        assert "float32" in native.why_not(blocks[1], y, y.mean(-1))
