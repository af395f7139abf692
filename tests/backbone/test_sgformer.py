"""What every registered model computes, whatever the size, precision and budget."""

import copy
import io
import math
import pickle
import re
import warnings

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy

from backbone import fill
from backbone.fill import MODELS, strides_of
from sgformer.backbone import hold_significance
from sgformer.backbone.blocks import HybridScaleBlock
from sgformer.ops.key_mean_attention import api
from sgformer.ops.window_attention import edges_apart

ODD_SIZES = [(32, 32), (33, 47), (225, 301), (97, 640)]


BUDGETS = [None, 3, 20, 147]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(
            name,
            size,
            marks=[] if name in ("sgformer_test", "sgformer_t") or size == ODD_SIZES[2] else pytest.mark.exhaustive,
        )
        for name in MODELS
        for size in [(224, 224), *ODD_SIZES]
    ],
)
def test_shapes(name, size):
    """On the meta device, where every size is cheap."""
    model, x = timm.create_model(name, device="meta", num_classes=7), torch.empty(2, 3, *size, device="meta")
    channels = [info["num_chs"] for info in model.feature_info]
    expected = [(2, c, *hw) for c, hw in zip(channels, strides_of(size), strict=True)]
    last, stages = model.forward_intermediates(x)
    assert [stage.shape for stage in stages] == expected
    assert last.shape == expected[-1]
    assert model.forward_head(last).shape == (2, 7)
    assert model.forward_head(last, pre_logits=True).shape == (2, model.num_features)
    pairs = [
        hw
        for stage, hw in zip(model.stages, strides_of(size), strict=True)
        for b in stage.blocks
        if isinstance(b, HybridScaleBlock)
    ]
    assert [tuple(s.shape) for s in model.forward_significance(x)] == [(2, *hw) for hw in pairs]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_finite_gradient(name):
    model = timm.create_model(name, num_classes=3).train()
    cross_entropy(model(torch.randn(2, 3, 64, 96)), torch.tensor([0, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("size", [(33, 47), (97, 130)])
@pytest.mark.parametrize("budget", BUDGETS)
@torch.no_grad()
def test_images_of_a_batch_ignore_each_other(size, budget):
    model, x = fill.model("sgformer_test", token_budget=budget), fill.image("batch", 3, *size)
    together = model(x)
    for i in range(3):
        torch.testing.assert_close(model(x[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-12)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    assert torch.equal(model(x), together)


@pytest.mark.parametrize("name", MODELS)
def test_meta_construction(name):
    meta = timm.create_model(name, device="meta")
    assert all(p.is_meta for p in meta.parameters())
    assert not list(meta.buffers())  # nothing that `to_empty` would leave undefined
    names = {key: t.shape for key, t in timm.create_model(name).state_dict().items()}
    assert {key: t.shape for key, t in meta.state_dict().items()} == names


def test_meta_then_weights_is_the_same_as_construction():
    torch.manual_seed(3)
    direct = timm.create_model("sgformer_test")
    meta = timm.create_model("sgformer_test", device="meta").to_empty(device="cpu")
    for parameter in meta.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    torch.manual_seed(3)
    meta.init_weights()
    assert all(t.isfinite().all() for t in meta.state_dict().values())
    for key, tensor in direct.state_dict().items():
        if not key.startswith("head"):
            torch.testing.assert_close(
                tensor.std(correction=0), meta.state_dict()[key].std(correction=0), rtol=0.2, atol=0.02
            )


def test_a_seed_decides_all_weights():
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(timm.create_model("sgformer_test").state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert not torch.equal(models[0]["head.fc.weight"], models[2]["head.fc.weight"])


def test_initial_values():
    torch.manual_seed(88)  # two numbers tell their deviation by luck alone; together they tell it well
    weights = timm.create_model("sgformer_t").state_dict()
    merging = [tensor.flatten() for key, tensor in weights.items() if ".merge." in key and tensor.ndim == 2]
    assert torch.cat(merging).std() == pytest.approx(0.02, rel=0.1)
    for key, tensor in weights.items():
        if ".merge." in key and key.endswith("weight"):
            assert tensor.std() == pytest.approx(0.02, rel=0.5) or tensor.numel() == 1, key
        elif key.endswith("bias"):
            assert (tensor == 0).all(), key
        elif tensor.ndim == 1:
            assert (tensor == 1).all(), key
        elif tensor.ndim == 2:
            assert tensor.std() == pytest.approx(0.02, rel=0.1), key
        elif tensor.ndim == 4:  # 2 / (k * k * out / groups), groups being in / (shape[1])
            fan_out = tensor.shape[2] * tensor.shape[3] * (1 if tensor.shape[1] == 1 else tensor.shape[0])
            assert tensor.std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.15), key
    c = weights["stem.pos_embed"].shape[2]
    position = weights["stem.pos_embed"].view(56, 56, 2, 2, c // 4)  # row, column; (column, row), (sin, cos), frequency
    for row, column, k in ((0, 0, 0), (3, 50, 1), (55, 7, c // 4 - 1)):
        w = 10000 ** (-k / (c // 4))
        expected = [[math.sin(w * column), math.cos(w * column)], [math.sin(w * row), math.cos(w * row)]]
        torch.testing.assert_close(position[row, column, :, :, k], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "warns"),
    [
        ({"guidance": "significance", "guidance_seed": 3, "weight_init": "released"}, None),
        ({"guidance": "random"}, "guidance='random' is ignored.*hold_significance"),
        ({"weight_init": "mean"}, "weight_init='mean' is ignored"),
    ],
)
def test_arguments_of_older_files_are_dropped_with_a_word_if_they_said_something(old, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = timm.create_model("sgformer_test", device="meta", **old)
    assert model.state_dict().keys() == timm.create_model("sgformer_test", device="meta").state_dict().keys()
    messages = [str(w.message) for w in caught if issubclass(w.category, FutureWarning)]
    assert len(messages) == (warns is not None)
    assert warns is None or re.search(warns, messages[0])


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="drop_path"):
        timm.create_model("sgformer_test", drop_path=0.1)
    for budget in (-1, 0, 2):
        with pytest.raises(ValueError, match=f"token_budget is {budget}; it must be None or at least 3"):
            timm.create_model("sgformer_test", token_budget=budget)
        with pytest.raises(ValueError, match=f"token_budget is {budget}"):
            timm.create_model("sgformer_test", device="meta").set_token_budget(budget)
    with pytest.raises(ValueError, match="depth is 3"):
        timm.create_model("sgformer_test", depths=(2, 3, 2, 1))
    with pytest.raises(ValueError, match="heads"):
        timm.create_model("sgformer_test", num_heads=(1, 2, 2, 4))


@pytest.mark.parametrize("budget", [None, 20])
def test_checkpointing_changes_nothing(budget):
    model, x = fill.model("sgformer_test", token_budget=budget).train(), fill.image("checkpoint", 2, 97, 70)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        out = model(x)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert all(stage.grad_checkpointing for stage in model.stages)


def test_checkpointing_saves_memory():
    """What autograd keeps is less than half; the stem and the downsampling are not repeated."""
    model, x = timm.create_model("sgformer_test").train(), torch.randn(1, 3, 64, 64)

    def numbers_kept(enable):
        kept = {}
        model.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
            model(x)
        parameters = {p.data_ptr() for p in model.parameters()}
        return sum(t.numel() for key, t in kept.items() if key not in parameters)

    kept = numbers_kept(False), numbers_kept(True)
    assert kept[1] < kept[0] / 2


COMPILED = [
    pytest.param("reference", None, False, marks=pytest.mark.exhaustive),
    ("chunked", 20, False),
    pytest.param("chunked", None, None, marks=pytest.mark.slow),  # the second size makes torch take sizes as variables
]


@pytest.mark.parametrize(("backend", "budget", "dynamic"), COMPILED)
def test_compiles_without_a_break(backend, budget, dynamic, monkeypatch):
    monkeypatch.setattr(api, "BACKENDS", {backend: api.BACKENDS[backend]})
    torch._dynamo.reset()
    model = fill.model("sgformer_test", num_classes=5, token_budget=budget, depths=(2, 0, 0, 1))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((97, 130),) if dynamic is False else ((64, 96), (97, 130)):
        x, results = fill.image("compile", 2, *size), []
        for f in (compiled, model):
            model.zero_grad()
            with torch.set_grad_enabled(dynamic is False):
                out = f(x)
            if dynamic is False:
                out.square().sum().backward()
            results.append([out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_budget_of_147_changes_nothing_at_224():
    x = fill.image("budget", 1, 224, 224)
    free = fill.model("sgformer_test")(x)
    assert torch.equal(fill.model("sgformer_test", token_budget=147)(x), free)
    assert torch.equal(fill.model("sgformer_test", token_budget=10_000)(x), free)
    assert not torch.allclose(fill.model("sgformer_test", token_budget=146)(x), free, atol=1e-4)


@torch.no_grad()
def test_budget_of_a_built_model():
    model, x = fill.model("sgformer_test"), fill.image("budget", 1, 97, 130)
    free, constructed = model(x), fill.model("sgformer_test", token_budget=20)
    model.set_token_budget(20)
    assert model.token_budget == 20
    assert torch.equal(model(x), constructed(x))
    assert not torch.allclose(model(x), free, atol=1e-4)
    model.set_token_budget(None)
    assert torch.equal(model(x), free)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", [(32, 32), (97, 640), (448, 448)])
def test_no_attention_has_more_keys_than_the_budget(budget, size, monkeypatch):
    from sgformer.backbone import attention

    counts = []

    def counting(attend):
        return lambda q, k, v, **options: counts.append((k.shape[2], options)) or attend(q, k, v, **options)

    monkeypatch.setattr(attention, "key_mean_attention", counting(attention.key_mean_attention))
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", counting(torch.nn.functional.scaled_dot_product_attention)
    )
    model = timm.create_model("sgformer_test", token_budget=budget, device="meta")
    model(torch.empty(1, 3, *size, device="meta"))
    most = max(n for n, _ in counts)
    assert len(counts) == 2 * 3 + 1  # one in each block, beside the windows, which have 49 tokens at most
    if budget is None:
        assert most > 147 or size == (32, 32)
    else:
        assert most <= budget


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16, "autocast"])
def test_every_size_and_precision_trains(size, precision, budget):
    dtype = torch.float32 if precision == "autocast" else precision
    model = fill.model("sgformer_test", dtype=dtype, num_classes=5, token_budget=budget).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        x = fill.image("precision", 1, *size).to(dtype)
        logits, maps = model(x), model.forward_significance(x)
    assert logits.dtype == (torch.bfloat16 if precision == "autocast" else dtype)
    logits.float().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for significance in maps:
        assert significance.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        assert not significance.requires_grad
        assert (significance >= 0).all()
        assert 0.8 < significance.mean() < 1.25


@pytest.mark.parametrize("budget", [None, 20])
@torch.no_grad()
def test_significance_has_mean_1_where_strides_divide_the_map(budget):
    model, x = fill.model("sgformer_test"), fill.image("mean", 2, 224, 224)
    for significance in model.forward_significance(x):
        torch.testing.assert_close(significance.mean((1, 2)), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-12)
        assert significance.std() > 0.01


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_images_below_32_are_refused(size):
    model, x = timm.create_model("sgformer_test", device="meta"), torch.empty(1, 3, *size, device="meta")
    for f in (model, model.forward_features, model.forward_significance, model.forward_intermediates):
        with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} .*at least 32x32"):
            f(x)


@torch.no_grad()
def test_copies_answer_alike():
    model, x = (fill.model("sgformer_test", token_budget=20, img_size=(64, 96)), fill.image("copy", 1, 97, 64))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(x), model(x))
    fresh = timm.create_model("sgformer_test", token_budget=20, img_size=(64, 96)).double().eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize(
    "options", [{"token_budget": 20}, {"drop_path_rate": 0.2}, {"drop_rate": 0.1}, {"global_pool": "max"}]
)
def test_options_change_no_name(options):
    names = {key: t.shape for key, t in timm.create_model("sgformer_test", device="meta").state_dict().items()}
    model = timm.create_model("sgformer_test", device="meta", **options)
    assert {key: t.shape for key, t in model.state_dict().items()} == names


@torch.no_grad()
def test_memory_format_changes_nothing():
    model, x = fill.model("sgformer_test"), fill.image("format", 2, 64, 96)
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(x.to(memory_format=torch.channels_last)), model(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_float32_is_near_float64_where_the_ranking_is_held():
    model, x = fill.model("sgformer_test"), fill.image("single", 2, 97, 130)
    low, maps = fill.model("sgformer_test", dtype=torch.float32), model.forward_significance(x)
    with hold_significance(low, maps):
        torch.testing.assert_close(low(x.float()).double(), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_content_decides_what_is_significant():
    """The map is of the image, not of the positions alone."""
    model = fill.model("sgformer_test")
    one, other = (model.forward_significance(fill.image(name, 1, 96, 96)) for name in ("one", "other"))
    assert all((a - b).abs().mean() > 0.02 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 130), (224, 100)])
def test_windows_at_the_edges_apart_change_nothing(size, monkeypatch):
    model = fill.model("sgformer_test", num_classes=5)
    x = fill.image("edges", 2, *size)

    def results():
        model.zero_grad()
        out = model(x)
        out.sum().backward()
        return out, model.forward_significance(x), model.stem.conv1.weight.grad

    together = results()
    monkeypatch.setattr(edges_apart, "MIN_SPLIT", 0)
    torch.testing.assert_close(results(), together, rtol=1e-9, atol=1e-9)
