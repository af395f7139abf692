"""Other people's tools on the backbone: tracers, adapters, quantised weights, counters."""

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sgformer
from backbone import fill
from sgformer.ops import dispatch


@pytest.fixture(scope="module")
def model():
    return fill.model("sgformer_test", num_classes=5)


@pytest.fixture(scope="module")
def x():
    return fill.image("tools", 2, 64, 80)


def test_layers_are_pytorchs_own(model):
    ours = {type(module) for module in model.modules() if type(module).__module__.startswith("sgformer.")}
    assert not any(
        next(module.parameters(recurse=False), None) is not None
        for module in model.modules()
        if type(module) in ours and type(module).__name__ != "Stem"
    )
    with FlopCounterMode(display=False) as counted:
        model(torch.zeros(1, 3, 224, 224, dtype=torch.float64))
    layers = []
    for module in model.modules():
        if type(module) in (nn.Linear, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: layers.append(_macs(m, o)))
    try:
        model(torch.zeros(1, 3, 224, 224, dtype=torch.float64))
    finally:
        for module in model.modules():
            module._forward_hooks.clear()
    assert 0.8 < 2 * sum(layers) / counted.get_total_flops() < 1  # the rest are products of attention


def _macs(layer, out):
    return out.numel() * layer.weight[0].numel()


def test_torch_fx_takes_a_segment_for_one_node(model, x):
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(graph(x[:1, :, :33, :47]), model(x[:1, :, :33, :47]), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="32x32"):
        graph(x[..., :16])


def test_feature_extractors_by_tracing(x):
    extractor = timm.create_model("sgformer_test", features_only=True, feature_cls="fx").double().eval()
    getter = timm.create_model("sgformer_test", features_only=True, feature_cls="getter").double().eval()
    weights = {name.removeprefix("graph_module."): t for name, t in extractor.state_dict().items()}
    missing = getter.model.load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith("head") for name in missing)
    for ours, theirs in zip(extractor(x), getter(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    whole = fill.model("sgformer_test")
    taken = extraction.create_feature_extractor(whole, {"stages.1": "two", "stages.3": "four"})(x)
    maps = whole.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(taken["two"], maps[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(taken["four"], maps[3], rtol=0, atol=1e-12)


def test_scripting_is_refused_in_one_sentence(model):
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script"):
        torch.jit.script(model)


class Adapted(nn.Module):
    """A linear layer with a low-rank part that learns, as LoRA puts in its place."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 2, bias=False).double()
        self.up = nn.Linear(2, layer.out_features, bias=False).double()

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def test_adapters_of_all_linear_layers_learn(x):
    model = fill.model("sgformer_test", num_classes=5).requires_grad_(False)
    layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert any(".merge." in name for name in layers)
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Adapted(model.get_submodule(name)))
    model(x).square().sum().backward()
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(adapters) == 2 * len(layers)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapters.values())
    assert all(p.grad.count_nonzero() for name, p in adapters.items() if ".up." in name)


@pytest.mark.parametrize("size", [64, 480])
@torch.no_grad()
def test_dynamic_int8_weights(size):
    model = fill.model("sgformer_test", num_classes=5).float()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert quantized(torch.randn(1, 3, size, size)).isfinite().all()


class Quantized(torch.Tensor):
    """A weight that can be multiplied as a whole, but not looked into, as int8 tensors are."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("split", "squeeze", "t", "permute", "flatten", "reshape", "view", "__getitem__"):
            raise NotImplementedError(f"{func.__name__} is not known")
        out = super().__torch_function__(func, types, args, kwargs or {})
        return out.as_subclass(torch.Tensor) if func is nn.functional.linear else out


@pytest.mark.parametrize("size", [64, 480])
@torch.no_grad()
def test_weights_of_a_kind_of_their_own_are_used_by_their_layer(size):
    model, x = fill.model("sgformer_test", num_classes=5), torch.randn(1, 3, size, size).double()
    expected = model(x)
    for layer in [module for module in model.modules() if type(module) is nn.Linear]:
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized), requires_grad=False)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-9)


def test_second_derivatives_are_right_or_refused(x):
    model, x = fill.model("sgformer_test", num_classes=5), x[:1].clone().requires_grad_()
    with pytest.raises(RuntimeError, match=r"sgformer\.plain\(\)"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with sgformer.plain():
        (of_x,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    penalty = of_x.square().sum()
    penalty.backward()
    weights = dict(model.named_parameters())
    missing = {name for name, p in weights.items() if p.grad is None}
    assert missing <= {"head.fc.bias", "stages.3.norm.bias"}
    name, step = "stages.1.blocks.1.attn.proj.weight", 1e-5
    with torch.no_grad():
        weights[name][0, 0] += step
    with sgformer.plain():
        (again,) = torch.autograd.grad(model(x).sum(), x)
    slope = (again.square().sum() - penalty.detach()) / step
    assert float(weights[name].grad[0, 0]) == pytest.approx(float(slope), rel=1e-3)


@torch.no_grad()
def test_no_property_of_a_tensor_stands_in_a_trace(x):
    """nncf copies the functions that it traced, and the getter of `Tensor.mT` cannot be copied."""
    copied = []

    class Copy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            copied.append(function)
            if getattr(function, "__self__", None) in (torch.Tensor.mT, torch.Tensor.T):
                raise AssertionError("a transposed view is taken by .mT or .T")
            return function(*args, **(kwargs or {}))

    with sgformer.plain(), Copy():
        fill.model("sgformer_test", num_classes=5)(x)
    assert copied


@torch.no_grad()
def test_what_follows_each_function_sees_whole_weights(x):
    """Quantisers place themselves at weights as they are kept; fast ways compute with parts of some."""
    model, seen = fill.model("sgformer_test", num_classes=5), []
    expected = model(x)

    class Follow(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            assert getattr(function, "__self__", None) not in (torch.Tensor.mT, torch.Tensor.T)
            if function in (nn.functional.linear, torch.conv2d):
                seen.append(args[1])
            return function(*args, **(kwargs or {}))

    with Follow():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-11)
    assert len(seen) > 50
    assert all(isinstance(weight, nn.Parameter) for weight in seen)
    with torch.device("cpu"):  # a mode, too, but it follows nothing
        assert not dispatch.is_followed()
