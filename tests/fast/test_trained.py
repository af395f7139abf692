"""Blocks as one operation of autograd: the gradients of the plain definition, whatever is dropped, frozen or cut."""

import contextlib

import pytest
import timm
import torch
from torch.autograd import forward_ad

import sgformer
from backbone import fill
from sgformer.backbone.attention import GlobalAttention, HybridScaleAttention, SelfGuidedAttention
from sgformer.backbone.blocks import GlobalBlock, HybridScaleBlock, SelfGuidedBlock
from sgformer.fast import explain_ways, trained, use_kernels
from sgformer.ops import pieces
from sgformer.ops.native import library

KINDS = {
    HybridScaleBlock: lambda: HybridScaleAttention(64, 2, stride=2),
    SelfGuidedBlock: lambda: SelfGuidedAttention(64, 4, group_sizes=(2, 1)),
    GlobalBlock: lambda: GlobalAttention(64, 2),
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(library, "_library", None)
    if objection := use_kernels().objection:
        pytest.skip(objection)


def built(kind, *, drop_path=0.0, images=4):
    block = fill.fill_(kind(64, KINDS[kind](), mlp_ratio=4, drop_path=drop_path)).float()
    x = torch.randn(images, 9, 6, 64, requires_grad=True)
    return block, (x, torch.randn(images, 9, 6)) if kind is SelfGuidedBlock else (x,)


def gradients(block, inputs):
    """What comes out, and gradients of the map and of all weights that want one."""
    torch.manual_seed(1)
    out = block(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    wave = torch.linspace(-3, 3, out.numel()).sin().view_as(out)
    weights = [weight for weight in block.parameters() if weight.requires_grad]
    return [out, *torch.autograd.grad(out, [inputs[0], *weights], wave)]


def assert_close(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        # The bias of merging moves all keys alike: what its gradient is besides rounding is little.
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + (1e-3 if ours.numel() == 1 else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_drop_the_same_images(kind):
    block, inputs = built(kind, drop_path=0.5)
    assert trained.why_not(block, *inputs) is None
    found = gradients(block, inputs)
    with sgformer.plain():
        assert_close(found, gradients(block, inputs))
    assert not torch.equal(found[0], gradients(block.eval(), inputs)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_few_images_at_a_time(kind, monkeypatch):
    block, inputs = built(kind, drop_path=0.5)
    whole = gradients(block, inputs)
    monkeypatch.setattr(pieces, "MAX_WHOLE", 0)
    monkeypatch.setattr(pieces, "MAX_BATCH", 0)
    monkeypatch.setattr(pieces, "PIECE", 3 * 9 * 6 * 256)  # three images, and one
    assert_close(gradients(block, inputs), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_kept_is_computed_anew(kind, monkeypatch):
    block, inputs = built(kind)
    whole = gradients(block, inputs)
    monkeypatch.setattr(trained, "MAX_KEPT", 0)
    monkeypatch.setattr(trained, "MAX_IN_PLACE", 0)
    assert_close(gradients(block, inputs), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_have_no_gradient(kind):
    block, inputs = built(kind)
    names = [name for name, _ in block.named_parameters()]
    all_of_them = dict(zip(["out", "x", *names], gradients(block, inputs), strict=True))
    frozen = [name for name in names if name.startswith(("attn.", "norm2", "mlp.fc1"))]
    for name, weight in block.named_parameters():
        weight.requires_grad_(name not in frozen)
    found = gradients(block, inputs)
    assert_close(found, [of for name, of in all_of_them.items() if name not in frozen])
    for weight in block.parameters():
        weight.requires_grad_(False)
    torch.testing.assert_close(gradients(block, inputs)[1], all_of_them["x"])


def test_a_whole_model_is_trained_by_them():
    model = timm.create_model("sgformer_test", channels=(32, 32, 64, 64), num_heads=(2, 2, 2, 4), num_classes=7)
    x = torch.randn(2, 3, 64, 96)
    assert sum(taken.way == "trained" for taken in explain_ways(model.train(), x)) == 7
    with torch.no_grad():
        assert not any(taken.way == "trained" for taken in explain_ways(model, x))


def test_who_is_left_to_others():
    block, (x,) = built(GlobalBlock)
    with torch.no_grad():
        assert "gradient" in trained.why_not(block, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in trained.why_not(block, x)
    assert "hook" in trained.why_not(hooked(built(GlobalBlock)[0]), x)
    assert "float32" in trained.why_not(block.double(), x.detach())


def hooked(block):
    block.mlp.fc1.register_forward_hook(lambda *_: None)
    return block


def test_there_is_no_second_derivative():
    block, (x,) = built(GlobalBlock)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(block(x).sum(), x, create_graph=True)


def test_a_batch_of_gradients_is_refused_with_the_way_out():
    block, (x,) = built(GlobalBlock)
    y = block(x)
    with pytest.raises(RuntimeError, match=r"batch of gradients.*plain\(\)"):
        torch.autograd.grad(y, x, torch.stack([y, y]).detach(), is_grads_batched=True)
    with sgformer.plain():
        y = block(x)
        (gradients,) = torch.autograd.grad(y, x, torch.stack([y, y]).detach(), is_grads_batched=True)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_was_changed_in_between_is_noticed(kind):
    block, inputs = built(kind)
    out = block(*inputs)
    with torch.no_grad():
        block.mlp.fc2.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified"):
        (out[0] if isinstance(out, tuple) else out).sum().backward()


def of_changed(block, inputs, between):
    """Gradients of a mean, where something changes between the forward and the backward pass."""
    out = block(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    with between():
        return torch.autograd.grad(out.square().mean(), [inputs[0], *block.parameters()])


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def kernels_no_longer_used():
    before, library._library = library._library, None
    try:
        yield
    finally:
        library._library = before


CHANGES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "double": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "restored": kernels_no_longer_used,
    "plain": sgformer.plain,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_before_the_backward_pass_changes_no_gradient(kind, change):
    block, inputs = built(kind)
    expected = of_changed(block, inputs, contextlib.nullcontext)
    assert_close(of_changed(block, inputs, CHANGES[change]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_another_default_dtype_changes_nothing(kind):
    block, inputs = built(kind)
    expected = gradients(block, inputs)[:1]
    with default_dtype(torch.float64):
        found = block(*inputs)
    assert_close([found[0] if isinstance(found, tuple) else found], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_may_change_before_the_backward_pass(kind):
    block, inputs = built(kind)
    block.attn.token_budget = 7
    expected = of_changed(block, inputs, contextlib.nullcontext)

    @contextlib.contextmanager
    def larger():
        block.attn.token_budget = 20
        yield

    assert_close(of_changed(block, inputs, larger), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_added_and_none_is_written_over(kind):
    block, inputs = built(kind)
    out = block(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    seen = []
    out.register_hook(seen.append)
    out.retain_grad()
    wave = torch.linspace(-3, 3, out.numel()).sin().view_as(out)
    given = wave.clone()
    out.backward(given, retain_graph=True)
    once = [tensor.grad.clone() for tensor in (inputs[0], *block.parameters())]
    (out.square().sum() + out.sum()).backward(retain_graph=True)  # two that autograd adds up
    inputs[0].grad, out.grad = None, None
    block.zero_grad()
    for _ in range(2):
        out.backward(given, retain_graph=True)
    assert torch.equal(given, wave)
    assert torch.equal(out.grad, 2 * wave)
    assert torch.equal(seen[0], wave)
    assert_close([tensor.grad for tensor in (inputs[0], *block.parameters())], [2 * of for of in once])


def test_gradients_of_other_strides():
    block, (x,) = built(GlobalBlock)
    (expected,) = torch.autograd.grad(block(x), x, torch.ones_like(x))
    turned = torch.ones(64, 4, 9, 6).permute(1, 2, 3, 0)
    for grad in (torch.ones(()).expand_as(x), turned, torch.ones(4, 9, 12, 64)[:, :, ::2]):
        assert_close(torch.autograd.grad(block(x), x, grad), [expected])


def test_the_input_must_not_change_before_the_backward_pass():
    block, (x,) = built(GlobalBlock)
    changed = x * 1
    out = block(changed)
    changed.mul_(2)
    with pytest.raises(RuntimeError, match="modified"):
        out.sum().backward()


def test_a_significance_of_another_size_is_refused():
    block, (x, significance) = built(SelfGuidedBlock)
    with pytest.raises(ValueError, match="ranking"):
        block(x, significance[:, :4])
    with torch.no_grad(), pytest.raises(ValueError, match="ranking"):
        block.eval()(x, significance[:, :4])


def test_weights_that_are_no_parameters():
    block, (x,) = built(GlobalBlock)
    layer = block.mlp.fc1
    weight = layer.weight.detach()
    expected = block(x)
    del layer.weight
    layer.weight = weight.t().contiguous().t()
    assert "contiguous" in trained.why_not(block, x)
    assert_close([block(x)], [expected])


def test_tangents_of_weights_are_not_left_out():
    block, (x,) = built(GlobalBlock)

    def tangent():
        with forward_ad.dual_level(), torch.no_grad():
            weights = {"attn.kv.weight": forward_ad.make_dual(block.attn.kv.weight.detach(), torch.ones(128, 64))}
            return forward_ad.unpack_dual(torch.func.functional_call(block.eval(), weights, (x,))).tangent

    with sgformer.plain():
        expected = tangent()
    assert_close([tangent()], [expected])
