"""The backbone within the transforms of `torch.func`, with layers replaced, hooked or pruned, and without images."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, prune

from backbone import fill
from sgformer.ops import attention, key_mean_attention

CONV = "stages.0.blocks.0"


@pytest.fixture(scope="module")
def model():
    return fill.model("sgformer_test", num_classes=5)


@pytest.fixture(scope="module")
def x():
    return fill.image("other", 2, 64, 80)


def replaced(model, path, layer):
    model = copy.deepcopy(model)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer.double().eval())
    return model


def test_functional_call_and_gradients_of_each_image(model, x):
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    torch.testing.assert_close(functional_call(model, weights, (x,)), model(x), rtol=0, atol=1e-12)

    def loss(weights, image):
        return functional_call(model, weights, (image[None],)).square().sum()

    with torch.no_grad():
        of_each = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for i in range(len(x)):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(of_each[name][i], parameter.grad, rtol=1e-8, atol=1e-9)


def test_one_image_at_a_time_by_vmap(model, x):
    with torch.no_grad():
        torch.testing.assert_close(vmap(lambda y: model(y[None])[0])(x), model(x), rtol=0, atol=1e-9)


REPLACED = {
    "a bias": ("stem.conv2", nn.Conv2d(16, 16, 3, padding=1), (64, 80)),
    "other padding": ("stem.conv2", nn.Conv2d(16, 16, 3, padding=1, bias=False, padding_mode="reflect"), (64, 80)),
    "another norm": ("stem.norm3", nn.GroupNorm(4, 16), (800, 800)),
    "no norm": (f"{CONV}.norm2", nn.Identity(), (800, 800)),
    "no bias": (f"{CONV}.mlp.fc2", nn.Linear(32, 16, bias=False), (64, 80)),
    "more than one layer": (f"{CONV}.mlp.fc2", nn.Sequential(nn.Linear(32, 16), nn.Tanh()), (64, 80)),
    "no MLP": (f"{CONV}.mlp", nn.Identity(), (64, 80)),
    "other coarse tokens": (f"{CONV}.attn.coarse", nn.Sequential(nn.Conv2d(16, 16, 8, 8), nn.Tanh()), (64, 80)),
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_replaced_layer_computes_the_same_with_and_without_a_gradient(model, case):
    path, layer, size = REPLACED[case]
    changed, x = replaced(model, path, layer), fill.image("replaced", 1, *size)
    with torch.no_grad():
        predicted = changed(x)
    assert not torch.equal(predicted, model(x))
    torch.testing.assert_close(changed(x).detach(), predicted, rtol=0, atol=1e-9)


def test_hooks_are_called_once_with_what_the_layer_made(model):
    hooked, seen, kept = copy.deepcopy(model), [], []
    block = hooked.stages[0].blocks[0]
    for layer in (block.norm2, block.attn.coarse, block.mlp.fc1):
        layer.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    block.attn.proj.register_forward_hook(lambda _, args, out: kept.append((out, out.clone())))
    with torch.no_grad():
        hooked(torch.zeros(1, 3, 800, 800, dtype=torch.float64))
    assert len(seen) == 3
    assert torch.equal(*kept[0])


@pytest.mark.parametrize("path", ["mlp", "mlp.fc2", "attn.proj", "attn.coarse", "norm2"])
def test_hooks_of_the_backward_pass_are_called(model, x, path):
    hooked, seen = copy.deepcopy(model), []
    hooked.get_submodule(f"{CONV}.{path}").register_full_backward_hook(lambda *args: seen.append(path))
    hooked(x).sum().backward()
    assert seen == [path]


def test_a_hook_on_all_modules_sees_all(model, x):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        model(x)
    finally:
        handle.remove()
    kinds = [type(module) for module in model.modules()]
    assert seen.count(type(model.stages[0].blocks[0].mlp)) == kinds.count(type(model.stages[0].blocks[0].mlp))
    assert seen.count(nn.LayerNorm) == kinds.count(nn.LayerNorm)


def test_pruned_and_parametrized_layers_learn(model, x):
    changed = copy.deepcopy(model)
    prune.l1_unstructured(changed.get_submodule(f"{CONV}.attn.coarse"), "weight", 0.5)
    parametrizations.weight_norm(changed.stages[0].blocks[1].attn.merge[0])
    for _ in range(2):
        changed(x).sum().backward()
    assert changed.stages[0].blocks[0].attn.coarse.weight_orig.grad.count_nonzero() > 0
    assert all(p.grad is not None for p in changed.stages[0].blocks[1].attn.merge[0].parameters())


def test_no_images(model, x):
    assert model(x[:0]).shape == (0, 5)
    assert [m.shape[0] for m in model.forward_significance(x[:0])] == [0, 0, 0]
    model.zero_grad()
    model(x[:0]).sum().backward()


def test_a_trace_computes_the_same(model, x):
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x), model(x), rtol=0, atol=1e-6)


def test_a_head_on_the_stages_that_are_left():
    model = timm.create_model("sgformer_test", num_classes=5, drop_rate=0.25)
    model.prune_intermediate_layers([1])
    model.reset_classifier(7, "avg")
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    assert model.head.drop.p == 0.25


def test_resized_positions_stay_frozen(model):
    changed = copy.deepcopy(model).requires_grad_(False)
    changed.set_input_size(128)
    assert not changed.stem.pos_embed.requires_grad


@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa"])
def test_float16_holds_scores_that_are_large_before_they_are_scaled(backend):
    q, k = (torch.full((1, 1, n, 32), 50.0, dtype=torch.float16, requires_grad=True) for n in (4, 3))
    assert (q @ k.mT).isinf().all()
    out, key_mean = key_mean_attention(q, k, k, backend=backend)
    out.sum().backward()
    assert torch.allclose(key_mean, torch.full_like(key_mean, 1 / 3))
    assert not q.grad.isnan().any()
    assert not attention(q, k, k).isnan().any()


@torch.no_grad()
def test_another_batch_size_is_not_compiled_anew():
    torch._dynamo.reset()
    compilations = []

    def count(graph, inputs):
        compilations.append(inputs)
        return graph.forward

    model = fill.model("sgformer_test", num_classes=5, depths=(2, 0, 0, 1))
    compiled = torch.compile(model, fullgraph=True, backend=count, dynamic=True)
    for B in (2, 3, 8):
        x = fill.image("batch", B, 64, 96)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-9, atol=1e-9)
    assert len(compilations) == 1
