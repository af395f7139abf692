"""A key given with `--resume` is followed, or refused by its name with the folder as it was."""

import dataclasses
import json
import logging
import random
import shutil
import typing
import warnings
from typing import Any, Literal

import pytest
import torch
from torch import nn

from class_folders import make_class_folders
from engine.killed_runs import OVERRIDES
from sgformer import tasks
from sgformer.commands.evaluate import evaluate
from sgformer.commands.train import train
from sgformer.engine import devices, recipe
from sgformer.engine.optim import OptimOptions, create_optimizer, create_schedule
from sgformer.engine.resuming import changes
from sgformer.engine.run_folder import moved

SETTINGS = {
    **OVERRIDES,
    "trainer.max_epochs": 1,
    "trainer.report": False,
    "trainer.significance": False,
    "trainer.tensorboard": False,
}


class Invalid(ValueError):
    """These values are no recipe at all."""


class Reached(Exception):
    """The run was accepted with this recipe; its data would be looked at next."""


def other_value(kind: Any, value: Any, rng: random.Random) -> Any:
    """A value of a key's type that differs from the one it has."""
    if typing.get_origin(kind) is Literal:
        return rng.choice([choice for choice in typing.get_args(kind) if choice != value])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice([value + 2, value * 2 + 2]) if isinstance(value, int) else value * 0.75 + 0.001
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list | tuple):
        return [other_value(None, each, rng) for each in value] if value else [2.0]
    if isinstance(value, dict):
        return {**value, "token_budget": 7}
    assert value is None, (kind, value)
    kinds = [each for each in typing.get_args(kind) if each is not type(None)]
    return "x" if str in kinds else rng.choice([64, 2])


def keys_of(section: Any, prefix: str = "") -> dict[str, Any]:
    """All keys of a recipe, with type and value."""
    hints, found = typing.get_type_hints(type(section)), {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            found |= keys_of(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = (hints[field.name], value)
    return found


def with_keys(section: Any, given: dict[str, Any]) -> Any:
    """A recipe with other values for some of its keys."""
    now = {}
    for field in dataclasses.fields(section):
        value, inner = getattr(section, field.name), f"{field.name}."
        if dataclasses.is_dataclass(value):
            now[field.name] = with_keys(
                value, {key.removeprefix(inner): each for key, each in given.items() if key.startswith(inner)}
            )
        elif field.name in given:
            now[field.name] = given[field.name]
    try:
        return dataclasses.replace(section, **now)
    except ValueError as error:
        raise Invalid(str(error)) from error


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", tasks.TASKS)
def test_every_key_is_followed_or_refused_by_name(name, tmp_path, monkeypatch):
    """Each key alone, then 300 random sets of up to four."""
    module = tasks.get(name)
    own = recipe.parse(recipe.find(f"{name}/smoke"), module.Recipe)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(own))
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "last.ckpt")
    before, keys, rng = contents(tmp_path), keys_of(own), random.Random(name)

    def parse(source, sections, overrides=None):  # the real one takes a tenth of a second, and has its own tests
        return with_keys(own, overrides or {})

    def build(parsed):
        raise Reached(parsed)

    monkeypatch.setattr(recipe, "parse", parse)
    monkeypatch.setattr(f"{module.name}.task.build", build)
    sets = [[key] for key in keys] + [rng.sample(list(keys), rng.randint(2, 4)) for _ in range(300)]
    followed, refused = set(), set()
    for chosen in sets:
        given = {key: other_value(*keys[key], rng) for key in chosen}
        with pytest.raises((Reached, ValueError)) as found:
            train(resume=tmp_path, overrides=given)
        assert contents(tmp_path) == before, given
        if isinstance(found.value, Reached):
            (parsed,) = found.value.args
            assert set(changes(own, parsed)) == set(given)
            followed |= {*chosen}
        elif not isinstance(found.value, Invalid):
            named = {key for key in chosen if key in str(found.value)}
            assert named, (given, found.value)
            refused |= named
    assert {"optim.lr", "optim.weight_decay", "trainer.max_epochs", "data.root"} <= followed
    assert {"seed", "model.name", "optim.name", "data.batch_size", "trainer.accumulate"} <= refused
    assert len(followed | refused) > 0.9 * len(keys)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_a_schedule_goes_on_by_the_new_recipe_from_the_step_where_it_was(layer_decay):
    import timm

    model = timm.create_model("test_vit") if layer_decay else nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    old = OptimOptions(lr=1e-2, weight_decay=0.1, warmup_epochs=1, layer_decay=layer_decay)
    new = OptimOptions(lr=4e-3, final_lr=1e-4, weight_decay=0.3, warmup_epochs=1, layer_decay=layer_decay)

    def at_step(options, steps, saved=None):
        optimizer = create_optimizer(model, options)
        schedule = create_schedule(optimizer, options, num_steps=40, num_epochs=4)
        if saved:
            optimizer.load_state_dict(saved[0])
            schedule.load_state_dict(saved[1])
        for _ in range(steps):
            optimizer.step()
            schedule.step()
        groups = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        return groups, (optimizer.state_dict(), schedule.state_dict())

    _, saved = at_step(old, 17)
    assert at_step(new, 0, saved)[0] == at_step(new, 17)[0]
    assert at_step(new, 5, saved)[0] == at_step(new, 22)[0]


def test_a_resumed_run_follows_learning_rate_and_decay(tmp_path):
    folder = train("smoke", {**SETTINGS, "optim.schedule": "steps"}, out=tmp_path)
    train(resume=folder, overrides={"trainer.max_epochs": 2, "optim.lr": 1e-5, "optim.weight_decay": 0.5})
    rows = (folder / "metrics.csv").read_text().splitlines()
    place = rows[0].split(",").index("lr")
    assert [float(row.split(",")[place]) for row in rows[1:]] == [2e-3, 1e-5]
    groups = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert max(group["weight_decay"] for group in groups) == 0.5
    assert "lr: 1.0e-05" in (folder / "recipe.yaml").read_text()


def test_a_run_leaves_the_filters_and_loggers_of_its_host_as_they_were(tmp_path):
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers], list(warnings.filters)
    train("smoke", SETTINGS, out=tmp_path)
    assert ([logger.level for logger in loggers], list(warnings.filters)) == before


def test_a_resume_that_fails_leaves_the_recipe_as_it_was(tmp_path, monkeypatch):
    folder = train("smoke", SETTINGS, out=tmp_path)
    before = contents(folder)
    for given, named in [
        ({"optim.name": "sgd"}, r"optim\.name \(adamw in the run, sgd now\)"),
        ({"data.batch_size": 4, "optim.lr": 1e-5}, r"data\.batch_size \(8 in the run, 4 now\)"),
    ]:
        with pytest.raises(ValueError, match=named):
            train(resume=folder, overrides=given)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Optimizer, "load_state_dict", lambda *_: {}["momentum"])
        with pytest.raises(KeyError, match="momentum"):
            train(resume=folder, overrides={"trainer.max_epochs": 2})
    assert contents(folder) == before
    with pytest.raises(ValueError, match=r"trainer\.max_epochs 1: epoch 2 .* has begun"):
        train(resume=train(resume=folder, overrides={"trainer.max_epochs": 2}), overrides={"trainer.max_epochs": 1})


def test_data_that_changed_are_told(tmp_path, capsys, monkeypatch):
    root = make_class_folders(tmp_path / "set", num_train=4, num_val=2)
    own = {key: value for key, value in SETTINGS.items() if "scenes" not in key}
    folder = train("smoke", {**own, "data.source": "folders", "data.root": str(root)}, out=tmp_path)
    train(resume=folder)
    assert "not those of the run" not in capsys.readouterr().out
    shutil.copy(root / "val" / "red" / "0.png", root / "train" / "red" / "9.png")
    for said in (True, False):
        train(resume=folder, overrides={"trainer.max_epochs": 3 - said})
        told = "the data are not those of the run, which were: 3 classes (blue 4, green 4, red 4), 12 + 6 images"
        assert (told in capsys.readouterr().out) == said
    (root / "notes.csv").write_text("not used")  # a note differs, and no image
    monkeypatch.chdir(tmp_path)
    train("smoke", resume=folder, out=".")  # where it lies
    said = capsys.readouterr().out
    assert "not used" in said
    assert "not those of the run" not in said
    assert "smoke is not read: the run's own recipe holds" in said
    with pytest.raises(ValueError, match=r"--out .*elsewhere has no effect beside --resume"):
        train(resume=folder, out=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_relative_folder_that_lies_elsewhere_is_told(tmp_path, monkeypatch, capsys):
    own = {key: value for key, value in SETTINGS.items() if "scenes" not in key}
    for place in ("a", "b"):
        make_class_folders(tmp_path / place / "set", num_train=4, num_val=2)
    monkeypatch.chdir(tmp_path / "a")
    folder = train("smoke", {**own, "data.source": "folders", "data.root": "set"}, out=tmp_path)
    for place in ("a", "b"):
        monkeypatch.chdir(tmp_path / place)
        evaluate(folder, device="cpu")
        train(resume=folder)
        assert capsys.readouterr().out.count(f"the run had it in {tmp_path / 'a'}") == 2 * (place == "b")
        evaluate(folder, {"data.root": "set"}, device="cpu")  # named by the one who asks
        assert "the run had it in" not in capsys.readouterr().out


def test_the_precision_of_a_run_is_told_and_so_is_another_one(tmp_path, monkeypatch, capsys):
    """What "auto" stands for depends on the processor, so a run may go on in another on the next machine."""
    monkeypatch.setattr(devices, "processor_has_bfloat16", lambda: True)
    folder = train("smoke", {**SETTINGS, "trainer.accelerator": "cpu", "trainer.precision": "auto"}, out=tmp_path)
    assert ", from scratch, bf16-mixed · " in capsys.readouterr().out
    assert json.loads((folder / "environment.json").read_text())["precision"] == "bf16-mixed"
    monkeypatch.setattr(devices, "processor_has_bfloat16", lambda: False)
    for told in (True, False):
        train(resume=folder, overrides={"trainer.max_epochs": 3 - told})
        line = "the run computed in bf16-mixed, and goes on in 32-true, by trainer.precision auto"
        assert (line in capsys.readouterr().out) == told


def test_a_folder_below_home_is_no_relative_one(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"directory": "/elsewhere"}))
    assert moved(tmp_path, "~/set") is None
    assert moved(tmp_path, str(tmp_path)) is None
    assert "/elsewhere" in (moved(tmp_path, "set") or "")
