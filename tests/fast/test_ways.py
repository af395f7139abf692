"""Every fast way of every segment: the numbers of the plain way, and no layer that it leaves out unasked."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import sgformer
from backbone import fill
from sgformer.backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from sgformer.backbone.blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock
from sgformer.backbone.mlp import ConvMlp
from sgformer.backbone.regional import RegionalAttention
from sgformer.backbone.segment import Segment
from sgformer.backbone.stem import Downsample, Stem
from sgformer.fast import conv_strips, explain_ways, exported, recomputed, strips
from sgformer.fast.conditions import LAYERS
from sgformer.ops import dispatch, pieces

# From this size on maps and batches are large: set to 0, so that what is for large ones takes small ones.
SIZES = [(pieces, "MAX_WHOLE"), (pieces, "MAX_BATCH"), (recomputed, "SMALL")]
SIZES += [(conv_strips, "MIN_SIZE"), (conv_strips, "MIN_SIZE_KEPT"), (strips, "MAX_HIDDEN")]
TAKE_SIGNIFICANCE = (SelfGuidedAttention, RegionalAttention, SelfGuidedBlock)
MODES = ["inference", "training", "gradient"]


def hybrid():
    return HybridScaleAttention(8, 2, stride=2, token_budget=12)


def self_guided():
    return SelfGuidedAttention(8, 2, group_sizes=(4, 2, 1), token_budget=20)


def regional():
    return RegionalAttention(8, 2, group_sizes=(4, 2, 1), token_budget=20)


def block(kind, attention):
    return kind(8, attention, mlp_ratio=2.0, drop_path=0.0)


BUILD = {
    Stem: lambda: Stem(3, 8, grid_size=(8, 8)),
    Downsample: lambda: Downsample(8, 12),
    ConvMlp: lambda: ConvMlp(8, 16),
    HybridScaleAttention: hybrid,
    SelfGuidedAttention: self_guided,
    RegionalAttention: regional,
    GlobalAttention: lambda: GlobalAttention(8, 2, token_budget=20),
    HybridScaleBlock: lambda: block(HybridScaleBlock, hybrid()),
    SelfGuidedBlock: lambda: block(SelfGuidedBlock, self_guided()),
    GlobalBlock: lambda: block(GlobalBlock, GlobalAttention(8, 2)),
}


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    for module, name in SIZES:
        monkeypatch.setattr(module, name, 0)


def built(kind, mode):
    """A segment of this kind, and inputs for it."""
    segment = fill.fill_(BUILD[kind]()).double().train(mode == "training")
    x = torch.randn(3, 15, 11, 8, dtype=torch.float64)
    if kind is Stem:
        return segment, (torch.randn(3, 3, 37, 45, dtype=torch.float64),)
    if kind is Downsample:
        return segment, (x.permute(0, 3, 1, 2),)
    return segment, (x, x.mean(-1)) if kind in TAKE_SIGNIFICANCE else (x,)


def results(segment, inputs, mode):
    """Outputs, and gradients of the first input and of all weights."""
    if mode == "inference":
        with torch.no_grad():
            out = segment(*inputs)
        return out if isinstance(out, tuple) else (out,)
    x, *rest = (t.detach().clone().requires_grad_() for t in inputs)
    out = segment(x, *rest)
    outs = out if isinstance(out, tuple) else (out,)
    weights = [p for p in segment.parameters() if p.requires_grad]
    loss = outs[0].square().sum()
    return (*outs, *torch.autograd.grad(loss, [x, *weights], allow_unused=True))


def check(segment, inputs, mode):
    with sgformer.plain():
        expected = results(segment, inputs, mode)
    for ours, theirs in zip(results(segment, inputs, mode), expected, strict=True):
        if theirs is None or ours is None:
            assert ours is None or not ours.count_nonzero()
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_every_segment_is_here():
    kinds = [kind for kind in Segment.__subclasses__() if kind.__module__.startswith("sgformer.")]
    kinds += [sub for kind in kinds for sub in kind.__subclasses__()]
    assert set(BUILD) == set(LAYERS) == {kind for kind in kinds if kind.ways}


# These have no float64; `test_native.py` holds them to the definition.
IN_FLOAT32 = "native", "trained"


@pytest.mark.parametrize(
    ("kind", "way"), [(kind, way) for kind in LAYERS for way in kind.ways if way not in IN_FLOAT32]
)
def test_a_way_computes_what_is_defined(kind, way, monkeypatch):
    serves = 0
    if way == "exported":
        monkeypatch.setattr(dispatch, "_exporting", lambda: True)
        monkeypatch.setattr(exported, "_convolutions", True)
    monkeypatch.setattr(kind, "ways", {way: kind.ways[way]})
    for mode in MODES:
        segment, inputs = built(kind, mode)
        with torch.set_grad_enabled(mode != "inference"):
            serves += kind.ways[way].why_not(segment, *inputs) is None
        check(segment, inputs, mode)
    assert serves


def watched(child, seen):
    def keep(module, inputs, output):
        found = output[0] if isinstance(output, tuple) else output
        seen.append((found, found.detach().clone()))

    child.register_forward_hook(keep)


def otherwise(child):
    """A layer of a class of its own, which computes something else with the same weights."""
    kind = type(child)
    other = copy.copy(child)
    other.__class__ = type("Other", (kind,), {"forward": lambda self, *x: _half(kind.forward(self, *x))})
    return other


def _half(out):
    return tuple(y / 2 for y in out) if isinstance(out, tuple) else out / 2


def own_forward(child):
    other, forward = copy.copy(child), type(child).forward
    other.forward = lambda *x: _half(forward(child, *x))
    return other


class Kept(torch.Tensor):
    """A weight of a kind of its own."""


def own_weights(child):
    if isinstance(getattr(child, "weight", None), nn.Parameter):
        child.weight = nn.Parameter(child.weight.detach().as_subclass(Kept))
    return child


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized(child):
    if isinstance(getattr(child, "weight", None), nn.Parameter):
        parametrize.register_parametrization(child, "weight", Half())
    return child


def another_norm(child):
    return nn.BatchNorm2d(child.num_channels).double() if isinstance(child, nn.GroupNorm) else child


def without_bias(child):
    if isinstance(child, nn.Linear):
        child.bias = None
    return child


def reflected(child):
    if type(child) is nn.Conv2d and child.padding != (0, 0):
        child.padding_mode = "reflect"
        child._reversed_padding_repeated_twice = [p for p in reversed(child.padding) for _ in range(2)]
    return child


CHANGES = [otherwise, own_forward, own_weights, parametrized, another_norm, without_bias, reflected]


def children_of(kind):
    segment, _ = built(kind, "inference")
    return [name for name, child in segment.named_modules() if name and type(child) is not nn.ModuleList]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_child_that_was_changed_has_its_say(kind, mode):
    for name in children_of(kind):
        for change in CHANGES:
            segment, inputs = built(kind, mode)
            parent, _, last = name.rpartition(".")
            holder = segment.get_submodule(parent)
            setattr(holder, last, change(getattr(holder, last)).train(mode == "training"))
            check(segment, inputs, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_hook_sees_each_call_and_what_it_keeps_stays(kind, mode):
    for name in children_of(kind):
        segment, inputs = built(kind, mode)
        seen, expected = [], []
        watched(segment.get_submodule(name), seen)
        check(segment, inputs, mode)  # first plainly
        assert len(seen) == 2, name
        expected, ours = seen
        assert torch.equal(*ours), name
        torch.testing.assert_close(ours[0], expected[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_way_refuses_each_layer_that_it_computes_with(kind):
    for mode in MODES:
        for name in LAYERS[kind]:
            segment, inputs = built(kind, mode)
            with torch.set_grad_enabled(mode != "inference"):
                layer = getattr(segment, name)
                layer = layer[0] if isinstance(layer, nn.ModuleList) else layer
                layer.register_full_backward_pre_hook(lambda *_: None)
                for way in kind.ways.values():
                    assert way.why_not(segment, *inputs)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_subclass_begins_without_ways(kind):
    sub = type("Sub", (kind,), {})
    assert sub.ways == {}
    assert kind.ways


def test_without_kernels_a_small_map_is_kept_and_a_large_one_computed_anew():
    model, x = fill.model("sgformer_test", depths=(2, 0, 0, 1), num_classes=5).float(), torch.zeros(1, 3, 64, 64)
    for size, way in {2**40: "plain", 0: "recomputed"}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recomputed, "SMALL", size)
            taken = {taken.way for taken in explain_ways(model, x) if re.search(r"blocks\.\d+$", taken.segment)}
        assert taken == {way}


def test_what_has_to_see_each_step_gets_the_plain_way(monkeypatch):
    monkeypatch.setattr(recomputed, "SMALL", 0)
    model, x = (fill.model("sgformer_test", depths=(2, 0, 0, 1), num_classes=5), torch.randn(2, 3, 64, 64).double())

    def ways():
        return {taken.way for taken in explain_ways(model, x)}

    assert "plain" not in ways()
    with sgformer.plain():
        assert ways() == {"plain"}
        with sgformer.plain():
            pass
        assert ways() == {"plain"}
    with torch.no_grad():
        assert "strips" in ways()
        with torch.autocast("cpu", torch.bfloat16):
            assert "strips" not in ways()


def test_the_table_says_why():
    model = fill.model("sgformer_test", depths=(2, 0, 0, 1), num_classes=5)
    model.stages[0].blocks[1].attn.proj = nn.Sequential(model.stages[0].blocks[1].attn.proj)
    ways = {t.segment: t for t in explain_ways(model, torch.randn(1, 3, 64, 64).double())}
    taken = ways["stages.0.blocks.1.attn"]
    assert taken.way == "plain"
    assert "proj was replaced" in taken.why_not["fused"]
    assert ways["stages.0.blocks.0.attn"].way == "fused"
