"""What timm and those who build on it expect of every registered model."""

import pytest
import timm
import torch
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import sgformer
from backbone import fill
from backbone.fill import MODELS, strides_of
from sgformer.backbone.initial import sine_cosine_positions
from sgformer.ops import resize_positions


def test_all_are_registered():
    assert set(MODELS) == {f"sgformer_{size}" for size in ("test", "t", "s", "m", "b")}
    assert all(timm.models.is_model_in_modules(name, ["sgformer"]) for name in MODELS)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["list", "getter"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, -1)])
def test_features_only(name, kind, out_indices):
    options = {"feature_cls": "getter"} if kind == "getter" else {}
    model = timm.create_model(name, features_only=True, out_indices=out_indices, device="meta", **options)
    wanted = [range(4)[i] for i in out_indices]
    assert model.feature_info.reduction() == [4 * 2**i for i in wanted]
    features = model(torch.empty(2, 3, 97, 160, device="meta"))
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    assert [tuple(f.shape[2:]) for f in features] == [strides_of((97, 160))[i] for i in wanted]


@pytest.mark.parametrize("kind", ["list", "getter"])
def test_features_only_are_the_models_own(kind):
    model, x = fill.model("sgformer_test"), fill.image("features", 2, 97, 70)
    options = {"feature_cls": "getter"} if kind == "getter" else {}
    features = fill.model("sgformer_test", features_only=True, **options)
    if kind == "getter":  # names differ by where the model sits, so do the weights of `fill`
        features.model.load_state_dict(model.state_dict(), strict=False)
        for a, b in zip(features.model.forward_significance(x), model.forward_significance(x), strict=True):
            assert torch.equal(a, b)
    else:
        assert not features.load_state_dict(list_names(model.state_dict()), strict=True).missing_keys
    for a, b in zip(features(x), model.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def list_names(state_dict):
    """timm's list class flattens `stages.0` to `stages_0`."""
    return {name.replace("stages.", "stages_", 1): t for name, t in state_dict.items() if not name.startswith("head")}


@pytest.mark.parametrize("name", MODELS)
def test_classifier(name):
    model, x = timm.create_model(name, device="meta", num_classes=0), torch.empty(2, 3, 64, 64, device="meta")
    assert model(x).shape == (2, model.num_features)
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    model.reset_classifier(5)
    assert model.num_classes == model.get_classifier().out_features == 5
    model.head.to("meta")
    assert model(x).shape == (2, 5)
    assert dict(model.named_modules())[model.default_cfg["classifier"]] is model.get_classifier()
    assert dict(model.named_modules())[model.default_cfg["first_conv"]] is model.stem.conv1


@pytest.mark.parametrize(
    ("pool", "shape"), [("avg", (64,)), ("max", (64,)), ("avgmax", (64,)), ("catavgmax", (128,)), ("", (64, 2, 3))]
)
@torch.no_grad()
def test_global_pool(pool, shape):
    model, x = fill.model("sgformer_test", num_classes=0, global_pool=pool), fill.image("pool", 1, 64, 96)
    features = model.forward_features(x)
    average, maximum = features.mean((2, 3)), features.amax((2, 3))
    expected = {"avg": average, "max": maximum, "avgmax": (average + maximum) / 2}
    expected |= {"catavgmax": torch.cat((average, maximum), 1), "": features}
    assert model(x).shape == (1, *shape)
    torch.testing.assert_close(model(x), expected[pool])
    other = fill.model("sgformer_test", num_classes=3)
    if pool:
        other.reset_classifier(4, pool)
        other.to(x.dtype)
        assert other(x).shape == (1, 4)


@pytest.mark.parametrize("name", MODELS)
def test_one_channel(name):
    model = timm.create_model(name, in_chans=1, device="meta")
    assert model(torch.empty(1, 1, 64, 64, device="meta")).shape == (1, 1000)


@torch.no_grad()
def test_drop_rate_acts_in_training_alone():
    model, x = fill.model("sgformer_test", drop_rate=0.5), fill.image("drop", 1, 64, 64)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_drop_path_rises_linearly_over_all_blocks_on_both_branches(name):
    model = timm.create_model(name, drop_path_rate=0.3, device="meta")
    rates = [
        [getattr(b.drop_path1, "drop_prob", 0.0), getattr(b.drop_path2, "drop_prob", 0.0)]
        for s in model.stages
        for b in s.blocks
    ]
    expected = torch.linspace(0, 0.3, len(rates))
    torch.testing.assert_close(torch.tensor(rates), expected[:, None].expand(-1, 2))


@torch.no_grad()
def test_dropping_all_paths_leaves_the_downsampling():
    """Drop path 1 on the last block: in training it is the identity."""
    model, x = fill.model("sgformer_test", drop_path_rate=1.0), fill.image("drop", 1, 64, 64)
    for module in model.modules():
        if isinstance(module, timm.layers.DropPath):
            module.drop_prob = 1.0
    model.stages[0].blocks = torch.nn.ModuleList()  # rate 0 in its first block
    model.train()
    y = model.stem(x).permute(0, 2, 3, 1)
    for stage in model.stages:
        y = stage.norm(
            stage.downsample(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if stage is not model.stages[0] else y
        )
    torch.testing.assert_close(model.forward_features(x), y.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("img_size", "grid"), [(224, (56, 56)), (160, (40, 40)), ((97, 130), (25, 33)), ((256, 512), (64, 128))]
)
@torch.no_grad()
def test_img_size_is_the_grid_of_positions_alone(img_size, grid):
    model = timm.create_model("sgformer_test", img_size=img_size).double().eval()
    assert model.stem.grid_size == grid
    assert model.stem.pos_embed.shape[1] == grid[0] * grid[1]
    expected = sine_cosine_positions(16, grid).float()
    torch.testing.assert_close(model.stem.pos_embed.float(), expected)
    assert model(fill.image("img_size", 1, 70, 50)).isfinite().all()


@pytest.mark.parametrize("size", [(160, 160), (97, 130)])
@torch.no_grad()
def test_set_input_size_changes_no_answer_at_that_size(size):
    model, x = fill.model("sgformer_test"), fill.image("input_size", 1, *size)
    before = model(x)
    model.set_input_size(img_size=size)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert model.stem.pos_embed.requires_grad
    assert model.stem.grid_size == strides_of(size)[0]


@pytest.mark.parametrize("indices", [0, 5, [4], [-5], []])
def test_stages_that_are_not_there_are_refused(indices):
    model = timm.create_model("sgformer_test")
    with pytest.raises(ValueError, match="there are 4 stages"):
        model.prune_intermediate_layers(indices)


@torch.no_grad()
def test_timm_loads_weights_of_another_img_size(tmp_path):
    model, x = fill.model("sgformer_test", img_size=224), fill.image("load", 1, 160, 128)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    other = fill.model("sgformer_test", img_size=(160, 128))
    load_checkpoint(other, str(tmp_path / "weights.pth"), filter_fn=sgformer.backbone.sgformer.checkpoint_filter_fn)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-12)
    source = {"file": str(tmp_path / "weights.pth"), "url": "", "hf_hub_id": None}
    created = timm.create_model("sgformer_test", img_size=160, pretrained=True, pretrained_cfg_overlay=source)
    expected = resize_positions(model.stem.pos_embed, (56, 56), (40, 40)).float()
    torch.testing.assert_close(created.stem.pos_embed, expected)


@torch.no_grad()
def test_timm_loads_weights_of_a_grid_that_is_not_square(tmp_path):
    model = fill.model("sgformer_test", img_size=(160, 128))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    same = timm.create_model("sgformer_test", img_size=(160, 128), checkpoint_path=str(tmp_path / "weights.pth"))
    torch.testing.assert_close(same.stem.pos_embed, model.stem.pos_embed.float())


@pytest.mark.parametrize("name", MODELS)
def test_groups_of_parameters(name):
    model = timm.create_model(name, device="meta")
    names = dict(model.named_parameters()).keys()
    assert model.no_weight_decay() <= names
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert groups.keys() == names
    depth = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    order = [
        depth[key]
        for key in (
            "stem.conv1.weight",
            "stages.0.blocks.0.mlp.fc1.weight",
            "stages.0.blocks.1.mlp.fc1.weight",
            "stages.1.blocks.0.norm1.weight",
            "stages.3.blocks.0.norm1.weight",
            "head.fc.weight",
        )
    ]
    assert order == sorted(set(order))
    decayed = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    assert sum(len(group["params"]) for group in decayed) == len(names)
    scale = {id(p): group["lr_scale"] for group in decayed for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert scale[id(parameters["head.fc.weight"])] == 1
    assert scale[id(parameters["stem.pos_embed"])] == min(scale.values())
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert (group["weight_decay"] == 0) == (p.ndim <= 1 or p is model.stem.pos_embed)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("keep", range(4))
def test_prune_intermediate_layers(name, keep):
    model, x = timm.create_model(name, device="meta"), torch.empty(1, 3, 64, 64, device="meta")
    expected = (1, model.feature_info[keep]["num_chs"], 16 // 2**keep, 16 // 2**keep)
    assert model.prune_intermediate_layers([keep]) == [keep]
    assert len(model.stages) == keep + 1
    last, stages = model.forward_intermediates(x, indices=[keep])
    assert last.shape == stages[0].shape == expected
    assert model.num_features == expected[1]
    assert model.num_classes == 0


@torch.no_grad()
def test_forward_intermediates():
    model, x = fill.model("sgformer_test"), fill.image("intermediates", 1, 64, 96)
    last, every = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert torch.equal(last, every[-1])
    for options, expected in [
        ({"indices": 2}, every[2:]),
        ({"indices": [0, 2]}, [every[0], every[2]]),
        ({"indices": [1], "stop_early": True}, every[1:2]),
        ({"output_fmt": "NHWC"}, [stage.permute(0, 2, 3, 1) for stage in every]),
    ]:
        actual = model.forward_intermediates(x, intermediates_only=True, **options)
        assert len(actual) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    with pytest.raises(ValueError, match="NLC"):
        model.forward_intermediates(x, output_fmt="NLC")
