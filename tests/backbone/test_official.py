"""Released weights: names both ways, clear refusals, and files that run nothing whatever is in them."""

import argparse
import collections
import os
import pickle
import zipfile

import pytest
import timm
import torch

from backbone import fill, make_cases, plain
from sgformer.backbone.official import from_official, is_official, read_released, to_official, variant_of

RELEASED = ["sgformer_s", "sgformer_m", "sgformer_b"]


def released(num_classes=10):
    """A released state dict of the smallest variant."""
    shapes = plain.official_shapes("sgformer_test", num_classes)
    return {name: fill.weight(name, shape) for name, shape in shapes.items()}


def on_meta(variant, num_classes=1000):
    return {name: torch.empty(s, device="meta") for name, s in plain.official_shapes(variant, num_classes).items()}


@pytest.mark.parametrize("variant", [*RELEASED, "sgformer_test"])
@pytest.mark.parametrize("num_classes", [1000, 7])
def test_names_and_shapes_there_and_back(variant, num_classes):
    official = on_meta(variant, num_classes)
    ours = from_official(official)
    model = timm.create_model(variant, num_classes=num_classes, device="meta")
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in model.state_dict().items()}
    assert {name: t.shape for name, t in to_official(ours).items()} == {name: t.shape for name, t in official.items()}
    assert variant_of(official) == variant


def test_values_there_and_back():
    official = released()
    ours = from_official(official)
    again, back = to_official(ours), from_official(to_official(ours))
    assert official.keys() == again.keys()
    assert all(torch.equal(official[name], again[name]) for name in official)
    assert all(torch.equal(ours[name], back[name]) for name in ours)
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for t in official.values())


def test_arguments_are_left_alone():
    official = released()
    before = dict(official)
    ours = from_official(official)
    names = list(ours)
    to_official(ours)
    assert official == before
    assert list(ours) == names


def test_prefix_of_parallel_training_is_dropped():
    prefixed = {f"module.{name}": t for name, t in released().items()}
    assert is_official(prefixed)
    assert variant_of(prefixed) == "sgformer_test"
    expected = from_official(released())
    assert all(torch.equal(t, expected[name]) for name, t in from_official(prefixed).items())


def test_no_head_at_all():
    headless = {name: t for name, t in released().items() if not name.startswith("head.")}
    model = timm.create_model("sgformer_test", num_classes=0)
    model.load_state_dict(from_official(headless), strict=True)
    assert to_official(from_official(headless)).keys() == headless.keys()


@torch.no_grad()
def test_timm_takes_released_weights_for_what_they_are(tmp_path):
    from sgformer.backbone.sgformer import checkpoint_filter_fn

    torch.save({"state_dict": released()}, tmp_path / "released.pth")
    model = timm.create_model("sgformer_test", num_classes=10, img_size=160).double().eval()
    timm.models.load_checkpoint(model, str(tmp_path / "released.pth"), filter_fn=checkpoint_filter_fn)
    x = make_cases.image(160, 160)
    expected = plain.run(released(), "sgformer_test", x)[0]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-9)


def without(name):
    return lambda weights: weights.pop(name)


def shaped(name, *shape):
    return lambda weights: weights.update({name: torch.zeros(shape)})


WRONG = [
    (without("norm3.bias"), "lack norm3.bias;"),
    (without("block1.0.attn.q1.weight"), "lack block1.0.attn.q1.weight"),
    (without("block1.1.attn.kv2.bias"), "lack block1.1.attn.kv2.bias"),
    (without("block3.1.attn.f2.weight"), "lack block3.1.attn.f2.weight"),
    (without("block2.0.attn.lepe_linear.weight"), "lack block2.0.attn.lepe_linear.weight"),
    (without("head.bias"), "lack head.bias"),
    (without("pos_embed"), "no pos_embed"),
    (shaped("block1.0.attn.q3.weight", 4), "unexpected block1.0.attn.q3.weight"),
    (shaped("teacher", 4), "unexpected teacher"),
    (shaped("block1.2.norm1.weight", 16), r"depths \(3, 2, 2, 1\)"),
    (shaped("block5.0.norm1.weight", 16), r"depths \(2, 2, 2, 1, 1\)"),
    (shaped("pos_embed", 1, 3136, 17), "17 channels"),
    (shaped("norm3.bias", 5), r"norm3.bias of these weights of sgformer_test has shape \[5\] in place of \[48\]"),
    (shaped("head.weight", 10, 65), r"head.weight .* \[10, 65\] in place of \[10, 64\]"),
    (shaped("block1.0.attn.kv1.weight", 16, 8), r"attn.kv1.weight .* \[16, 8\] in place of \[16, 16\]"),
    (shaped("pos_embed", 3136, 16), r"pos_embed .* \[3136, 16\] in place of \[1, 3136, 16\]"),
    (shaped("head.bias", 11), r"head.bias"),
    (lambda weights: [weights.pop(name) for name in list(weights) if "mlp" in name], "and 37 more"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_a_wrong_state_dict_is_refused_by_name(spoil, message):
    weights = released()
    spoil(weights)
    with pytest.raises(ValueError, match=message):
        from_official(weights)


def test_weights_of_something_else_are_refused():
    for weights in (
        {},
        {"conv.weight": torch.zeros(1)},
        timm.create_model("sgformer_test", device="meta").state_dict(),
    ):
        assert not is_official(weights)
        with pytest.raises(ValueError, match="no released SG-Former weights"):
            from_official(weights)


def content(**changes):
    """What a released file holds."""
    weights = released()
    arguments = argparse.Namespace(model="sgformer_s", lr=1e-3, opt_betas=None, data_dir="/data", mean=(0.5, 0.5))
    return {
        "epoch": 299,
        "arch": "sgformer_s",
        "state_dict": {f"module.{name}": t for name, t in weights.items()},
        "state_dict_ema": collections.OrderedDict((name, t + 1) for name, t in weights.items()),
        "optimizer": {
            "state": {0: {"step": 5, "exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "args": arguments,
        "metric": 83.2,
        **changes,
    }


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_released_file(tmp_path, zipped):
    path = saved(tmp_path / "released.pth", content(), _use_new_zipfile_serialization=zipped)
    expected = released()
    for ema, name in ((True, "{}"), (False, "module.{}")):
        weights = read_released(path, ema=ema)
        assert weights.keys() == {name.format(key) for key in expected}
        assert all(torch.equal(weights[name.format(key)], t + ema) for key, t in expected.items())
        from_official(weights)
    assert torch.equal(read_released(str(path))["norm1.bias"], expected["norm1.bias"] + 1)  # EMA if not told otherwise


def test_a_bare_state_dict(tmp_path):
    path = saved(tmp_path / "bare.pth", released())
    assert read_released(path).keys() == read_released(path, ema=False).keys() == released().keys()


NO_WEIGHTS = [
    (lambda c: c.pop("state_dict_ema"), True, "has no state_dict_ema, .*; pass --no-ema"),
    (lambda c: c.pop("state_dict"), False, "has no state_dict, .*; leave out --no-ema"),
    (
        lambda c: (c.pop("state_dict"), c.pop("state_dict_ema")),
        True,
        "has no state_dict_ema, only arch, args, .*; it is no checkpoint of the SG-Former authors",
    ),
    (lambda c: c.update(state_dict_ema=None), True, "has no state_dict_ema"),
    (lambda c: c.update(state_dict_ema={"a": 1, "norm1.bias": "text"}), True, "a, norm1.bias are no tensors"),
    (lambda c: c.clear(), True, "has no state_dict_ema"),
    (
        lambda c: (c.clear(), c.update({f"layer{i}.weight": torch.zeros(1) for i in range(99)})),
        True,
        r"only layer0.weight, .* and 94 more; it is no checkpoint",
    ),
]


@pytest.mark.parametrize(("spoil", "ema", "message"), NO_WEIGHTS)
def test_files_without_the_weights_asked_for(tmp_path, spoil, ema, message):
    held = content()
    spoil(held)
    with pytest.raises(ValueError, match=message):
        read_released(saved(tmp_path / "spoilt.pth", held), ema=ema)


@pytest.mark.parametrize("value", [torch.zeros(3), [1, 2], "text", None, 5])
def test_files_that_hold_something_else(tmp_path, value):
    with pytest.raises(ValueError, match=f"holds a {type(value).__name__}, not a dictionary"):
        read_released(saved(tmp_path / "other.pth", value))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 1, 2, 3, 4, 10, 100, 1000, 0.1, 0.3, 0.5, 0.9, 0.99, 0.9999, -1])
def test_a_file_that_is_cut_off(tmp_path, zipped, keep):
    path = saved(tmp_path / "whole.pth", content(), _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="cut off") as caught:
        read_released(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "json", "jpeg", "zip", "zip_of_nothing", "safetensors", "html", "zeros"])
def test_a_file_of_another_kind(tmp_path, damage):
    path = tmp_path / "other.pth"
    path.write_bytes(
        {"text": b"not found\n", "json": b'{"a": 1}', "jpeg": b"\xff\xd8\xff\xe0" * 30, "html": b"<html>" * 9}.get(
            damage, b"\0" * 500
        )
    )
    if damage.startswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            if damage == "zip":
                archive.writestr("readme.txt", "hello")
    if damage == "safetensors":
        from safetensors.torch import save_file

        save_file({"norm1.bias": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"other\.pth: ") as caught:
        read_released(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["nowhere.pth", "."])
def test_no_file(tmp_path, missing):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_released(tmp_path / missing)


class Reduce:
    """Pickles to a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class ReduceWithState(Reduce):
    """Pickles to an allowed call, and a state with one that is not allowed."""

    def __reduce__(self):
        return (*self.call, {"x": Reduce(os.system, self.command)})


def handwritten(module, name, argument):
    """A pickle that calls a global on a text, by opcodes."""
    return (
        b"\x80\x02c"
        + f"{module}\n{name}\n".encode()
        + b"X"
        + len(argument).to_bytes(4, "little")
        + argument.encode()
        + b"\x85R."
    )


def in_zip(path, data):
    """A torch.save file whose pickle is this."""
    torch.save({"state_dict": {}}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, old in files.items():
            archive.writestr(name, data if name.endswith("data.pkl") else old)


def attacks(command, code):
    """Objects whose unpickling would run a command."""
    with_state = ReduceWithState(argparse.Namespace)
    with_state.command = command
    return {
        "system": Reduce(os.system, command),
        "eval": Reduce(eval, code),
        "exec": Reduce(exec, code),
        "getattr": Reduce(getattr, Reduce(__import__, "os"), "system"),
        "import": Reduce(__import__, "os"),
        "state of a namespace": with_state,
        "in a namespace": argparse.Namespace(lr=Reduce(os.system, command)),
        "in state_dict": {"state_dict_ema": {"norm1.bias": Reduce(os.system, command)}},
        "pickle in a pickle": Reduce(pickle.loads, pickle.dumps(Reduce(os.system, command))),
        "partial": Reduce(__import__("functools").partial, os.system, command),
        "torch.load": Reduce(torch.load, command),
        "hub": Reduce(torch.hub.load, "a/b", "c"),
        "namespace attribute": Reduce(getattr, argparse.Namespace, "__init__"),
        "file": Reduce(open, command.split()[-1], "w"),
        "path": Reduce(__import__("pathlib").Path.touch, __import__("pathlib").Path(command.split()[-1])),
    }


ATTACKS = list(attacks("touch x", "0"))
OPCODES = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "exec"),
    ("torch", "os.system"),
    ("argparse", "_os.system"),
    ("torch.serialization", "os.system"),
]


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_file_is_run(tmp_path, attack, container):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    held = content(args=attacks(f"touch {trace}", f"open({str(trace)!r}, 'w')")[attack])
    if container == "pickle":
        path.write_bytes(pickle.dumps(held["args"]))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(ValueError, match=r"evil\.pth: ") as caught:
        read_released(path)
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    if container != "pickle":
        assert "nothing in it was run" in str(caught.value)


@pytest.mark.parametrize(("module", "name"), OPCODES)
@pytest.mark.parametrize("container", ["zip", "bare"])
def test_nothing_in_a_handwritten_file_is_run(tmp_path, module, name, container):
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    argument = f"open({str(trace)!r}, 'w')" if name == "exec" else f"touch {trace}"
    data = handwritten(module, name, argument)
    if container == "zip":
        in_zip(path, data)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"evil\.pth: "):
        read_released(path)
    assert not trace.exists()


def test_the_attacks_would_work(tmp_path):
    """Else the tests above test nothing."""
    for attack in ("system", "exec", "in a namespace", "state of a namespace", "pickle in a pickle"):
        trace = tmp_path / attack.replace(" ", "_")
        held = attacks(f"touch {trace}", f"open({str(trace)!r}, 'w')")[attack]
        torch.load(saved(tmp_path / "evil.pth", held), weights_only=False)
        assert trace.exists(), attack


def test_reading_leaves_no_trust_behind(tmp_path):
    """The namespace is allowed for the time of reading alone."""
    read_released(saved(tmp_path / "released.pth", content()))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "released.pth", weights_only=True)
