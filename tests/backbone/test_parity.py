"""The released model's numbers: from `../shared/parity` where it exists, and from our own stored cases always."""

import functools
import importlib.util
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from backbone import make_cases, plain
from sgformer.backbone import hold_significance
from sgformer.backbone.blocks import HybridScaleBlock
from sgformer.backbone.official import from_official, to_official
from sgformer.ops.dispatch import never
from sgformer.ops.key_mean_attention import api

TOLERANCE = 1e-9
CASES = [pytest.param(*case, id=make_cases.case_name(*case)) for case in make_cases.CASES]
SHARED_CASES = [  # those that exist when this is written; a test below sees to it that none is left out
    "sgformer_b_seed0_64x80",
    "sgformer_m_seed0_224x224",
    "sgformer_s_seed0_33x47",
    "sgformer_s_seed0_64x96_budget3",
    "sgformer_s_seed0_160x208",
    "sgformer_s_seed0_224x224",
    "sgformer_s_seed0_333x250",
    "sgformer_s_seed0_333x250_budget20",
    "sgformer_s_seed0_448x448_budget128",
]


# Of the shared cases those that `make test` runs in every backend; `make test-exhaustive` runs all in all.
IN_EVERY_BACKEND = ["sgformer_s_seed0_33x47", "sgformer_s_seed0_64x96_budget3", "sgformer_s_seed0_224x224"]


@pytest.fixture(params=api.BACKENDS)
def backend(request, monkeypatch):
    """Runs all of a model's `key_mean_attention` on one backend, and on `chunked` what it cannot serve."""
    chosen = api.BACKENDS[request.param]
    q = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    if reason := chosen.why_not(q, q, q, 1.0, None):
        pytest.skip(reason)
    monkeypatch.setattr(
        api, "BACKENDS", {request.param: chosen._replace(why_slow=never), "chunked": api.BACKENDS["chunked"]}
    )
    return request.param


@functools.lru_cache(1)  # a few hundred megabytes each
def official_model(variant, seed, weights):
    """A model with the weights of the shared cases, in float64, without drawing its own first."""
    model = timm.create_model(variant, device="meta").eval()
    model.load_state_dict(from_official(weights(variant, seed)), assign=True)
    return model


def shared_case(shared, name):
    """(model, image, expected) of a shared case."""
    variant, seed, height, width, _, budget = re.fullmatch(r"(\w+)_seed(\d+)_(\d+)x(\d+)(_budget(\d+))?", name).groups()
    expected = load_file(shared / "parity" / f"{name}.safetensors")
    image = shared_fill(shared).image_for(
        f"{variant}/{seed}/image", (len(expected["logits"]), 3, int(height), int(width))
    )
    model = official_model(variant, int(seed), functools.partial(shared_weights, shared))
    model.set_token_budget(int(budget) if budget else None)
    if seed == "0" and (height, width) == ("224", "224"):  # the released model's own maps, in its own unit
        expected |= {key: value * 24.5 for key, value in expected.items() if key.startswith("significance")}
    return model, torch.from_numpy(image), expected


@functools.lru_cache(1)
def shared_fill(shared):
    spec = importlib.util.spec_from_file_location("shared_fill", shared / "parity" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shared_shapes(shared, variant):
    shapes = json.loads((shared / "parity" / f"{variant}_state_dict.json").read_text())
    return {name: tuple(shape) for name, shape in shapes.items()}


def shared_weights(shared, variant, seed):
    shapes = shared_shapes(shared, variant).items()
    return {name: torch.from_numpy(shared_fill(shared).tensor_for(name, shape, seed)) for name, shape in shapes}


def sampled(stage):
    """What the shared cases keep of a feature map `(B, c, H, W)`."""
    tokens = stage.flatten(2).mT
    return tokens[:, :: max(1, tokens.shape[1] // 49), :: max(1, tokens.shape[2] // 32)]


def maps_of(case):
    """The significance maps among the tensors of a case, in the order of `forward_significance`."""
    names = [name.removeprefix("significance") for name in case if name.startswith("significance")]
    return [case[f"significance{name}"] for name in sorted(names, key=lambda name: [*map(int, name.split("."))])]


def observe(model, image):
    """All that a shared case holds, from one forward pass."""
    seen = {}

    def keep(name, take):
        return lambda _module, _args, output: seen.update({name: take(output)})

    handles = []
    for i, stage in enumerate(model.stages, 1):
        handles.append(stage.register_forward_hook(keep(f"stage{i}", sampled)))
        pairs = [block for block in stage.blocks if isinstance(block, HybridScaleBlock)]
        for j, block in enumerate(pairs):
            handles.append(block.register_forward_hook(keep(f"significance{i}.{j}", lambda output: output[1])))
    seen["logits"] = model(image)
    for handle in handles:
        handle.remove()
    return seen


def near(actual, expected, tolerance=TOLERANCE):
    return torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(
            name, backend, marks=[] if backend == "reference" or name in IN_EVERY_BACKEND else pytest.mark.exhaustive
        )
        for name in SHARED_CASES
        for backend in api.BACKENDS
    ],
    indirect=["backend"],
)
@torch.inference_mode()
def test_shared_case(shared, name, backend):
    model, image, expected = shared_case(shared, name)
    actual = observe(model, image)
    assert actual.keys() == expected.keys()
    for key in expected:
        near(actual[key], expected[key])


def test_no_shared_case_is_left_out(shared):
    assert {path.stem for path in shared.glob("parity/*.safetensors")} <= set(SHARED_CASES)


@pytest.mark.parametrize("variant", ["sgformer_s", "sgformer_m", "sgformer_b"])
def test_released_names_and_shapes(shared, variant):
    official = to_official(timm.create_model(variant, device="meta").state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in official.items()} == shared_shapes(shared, variant)
    assert plain.official_shapes(variant) == shared_shapes(shared, variant)


@pytest.mark.parametrize("name", ["sgformer_s_seed0_33x47", "sgformer_s_seed0_64x96_budget3"])
def test_the_plain_implementation_agrees_with_the_shared_cases(shared, name):
    model, image, expected = shared_case(shared, name)
    logits, stages, maps = plain.run(to_official(model.state_dict()), "sgformer_s", image, model.token_budget)
    near(logits, expected["logits"])
    for i, stage in enumerate(stages, 1):
        near(sampled(stage.mT.unsqueeze(-1)), expected[f"stage{i}"])
    for actual, significance in zip(maps, maps_of(expected), strict=True):
        near(actual, significance)


@pytest.mark.parametrize("name", ["sgformer_s_seed0_33x47", "sgformer_s_seed0_160x208", "sgformer_b_seed0_64x80"])
@torch.inference_mode()
def test_shared_case_in_float32_with_the_ranking_held(shared, name):
    """Logits are about 1, and float32 has 24 bits: 23 blocks of sums over hundreds of terms may lose 7 of them."""
    model, image, expected = shared_case(shared, name)
    maps = maps_of(expected)
    with hold_significance(single(model), maps):
        logits = single(model)(image.float())
        measured = single(model).forward_significance(image.float())
    near(logits, expected["logits"], 2**-17)
    for actual, held in zip(measured, maps, strict=True):
        torch.testing.assert_close(actual.double(), held, rtol=2**-15, atol=0)


@functools.lru_cache(1)
def single(model):
    """A float32 copy."""
    copy = timm.create_model(model.default_cfg["architecture"], device="meta").eval()
    copy.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()}, assign=True)
    copy.set_token_budget(model.token_budget)
    return copy


def stored_model(budget, dtype=torch.float64):
    model = timm.create_model(make_cases.VARIANT, num_classes=make_cases.NUM_CLASSES, token_budget=budget).eval()
    model.to(dtype).load_state_dict(from_official(make_cases.weights()))
    return model


@pytest.mark.parametrize(("height", "width", "budget"), CASES)
@torch.inference_mode()
def test_stored_case(height, width, budget, backend):
    expected = load_file(Path(__file__).parent / f"cases/{make_cases.case_name(height, width, budget)}.safetensors")
    model, image = stored_model(budget), make_cases.image(height, width)
    near(model(image), expected["logits"])
    for i, stage in enumerate(model.forward_intermediates(image, intermediates_only=True), 1):
        near(make_cases.sample(stage.flatten(2).mT, 7), expected[f"stage{i}"])
    for i, significance in enumerate(model.forward_significance(image), 1):
        near(make_cases.sample(significance.flatten(1), 49), expected[f"significance{i}"])


def images(height, width):
    """Eight images, so that an error is a mean over many numbers: the last map of 33x47 has nine in each."""
    generator = torch.Generator().manual_seed(1)
    more = torch.randn(6, 3, height, width, generator=generator, dtype=torch.float64)
    return torch.cat([make_cases.image(height, width), more])


@functools.cache
def plain_results(height, width, budget, dtype):
    """Logits, stages and significance of the plain implementation: in float64, and in `dtype` with the ranking held."""
    image, weights = images(height, width), make_cases.weights()
    exact = plain.run(weights, make_cases.VARIANT, image, budget)
    low = {name: tensor.to(dtype) for name, tensor in weights.items()}
    return exact, plain.run(low, make_cases.VARIANT, image.to(dtype), budget, held=exact[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width", "budget"), [(33, 47, None), (97, 130, 20), (128, 160, None)])
@torch.inference_mode()
def test_no_worse_than_plain_code_in_the_same_precision(height, width, budget, dtype, backend):
    """By the rule for fast versions, with the ranking held: at most twice the plain implementation's error."""
    image = images(height, width)
    (logits, stages, maps), simple = plain_results(height, width, budget, dtype)
    model = stored_model(budget, dtype)
    with hold_significance(model, maps):
        ours = [model(image.to(dtype)), *model.forward_intermediates(image.to(dtype), intermediates_only=True)]
        ours += model.forward_significance(image.to(dtype))
    ours[1:5] = [stage.flatten(2).mT for stage in ours[1:5]]
    for a, b, exact in zip(ours, [simple[0], *simple[1], *simple[2]], [logits, *stages, *maps], strict=True):
        assert (a.double() - exact).norm() <= 2 * (b.double() - exact).norm()


@torch.inference_mode()
def test_holding_significance():
    model, image = stored_model(None), make_cases.image(64, 64)
    free, maps = model(image), model.forward_significance(image)
    with hold_significance(model, maps):
        assert torch.equal(model(image), free)
    with hold_significance(model, [-m for m in maps]):
        assert not torch.allclose(model(image), free)
    assert torch.equal(model(image), free)  # nothing stays behind
    with pytest.raises(ValueError, match="2 significance maps for 3 pairs"), hold_significance(model, maps[:2]):
        pass
    with (
        pytest.raises(ValueError, match=r"\(2, 16, 16\), the model's own \(1, 16, 16\)"),
        hold_significance(model, maps),
    ):
        model(image[:1])
    assert torch.equal(model(image), free)  # nor after an error


SIZES = [  # millions of parameters, GMACs at 224 (of the released model, which merges twice for each list)
    ("sgformer_s", 22.55, 4.78),
    ("sgformer_m", 38.69, 7.43),
    ("sgformer_b", 77.95, 15.54),
]


@pytest.mark.parametrize(("variant", "parameters", "macs"), SIZES)
def test_size(variant, parameters, macs):
    assert size(variant) == pytest.approx((parameters, macs), abs=0.007)


@pytest.mark.parametrize(("variant", "parameters", "macs"), [("sgformer_t", 7, 1.3), ("sgformer_test", 1, 0.2)])
def test_small_variants_are_small(variant, parameters, macs):
    assert size(variant)[0] <= parameters
    assert size(variant)[1] <= macs


def size(variant):
    model = timm.create_model(variant, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9
