"""Each key of the data is read by evaluation, or refused there."""

import dataclasses

import pytest

pytest.importorskip("pycocotools", reason="detection needs pycocotools")

from class_folders import make_class_folders
from coco_files import make_rectangles
from mask_folders import make_mask_folders
from sgformer import tasks
from sgformer.engine import recipe


def with_fault(root):
    """A set with masks, of which one lacks: keys about faults are read."""
    (make_mask_folders(root) / "annotations" / "val" / "0.png").unlink()
    return root


OWN = {
    "classification": ("folders", make_class_folders),
    "segmentation": ("folders", with_fault),
    "detection": ("coco", make_rectangles),
}


def record(section, prefix, seen):
    """Note which fields of a section, and of those in it, are read from now on."""
    kind = type(section)
    names = {field.name for field in dataclasses.fields(kind)}

    def read(self, name):
        if name in names:
            seen.add(f"{prefix}{name}")
        return object.__getattribute__(self, name)

    for name in names:
        if dataclasses.is_dataclass(value := getattr(section, name)):
            record(value, f"{prefix}{name}.", seen)
    section.__class__ = type(kind.__name__, (kind,), {"__getattribute__": read})


def keys(section, prefix="data."):
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(value := getattr(section, field.name)):
            yield from keys(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("task", OWN)
def test_each_key_is_read_or_refused(tmp_path, task, own):
    source, make = OWN[task]
    settings = {"data.source": "digit_scenes", "data.scenes.num_train": 8, "data.scenes.num_val": 4}
    if own:
        settings = {"data.source": source, "data.root": str(make(tmp_path / "set"))}
        settings |= {"data.faults": "drop"} if task == "segmentation" else {}
    module = tasks.get(task)
    parsed = recipe.parse(recipe.find(f"{task}/smoke"), module.Recipe, settings)
    trained, _ = module.build(parsed)
    data, options, seen = parsed.data, dataclasses.replace(parsed), set()
    known = [*keys(data)]
    record(data, "data.", seen)
    module.evaluate(trained.model, data)
    assert "data.batch_size" in seen

    for key in set(known) - set(seen):
        with pytest.raises(ValueError, match=key):
            check(options, key)


def check(options, key):
    options.check_given([key])
    options.check_evaluated([key])


IDLE = [
    ("smoke", "data.bands.mean", "[1, 2, 3]", {}, {"model.in_chans": 4}),
    ("smoke", "optim.step_epochs", "[8, 11]", {}, {"optim.schedule": "steps"}),
    ("smoke", "optim.decay_epochs", "2", {}, {"optim.schedule": "constant"}),
    ("smoke", "optim.final_lr", "0", {"optim.schedule": "steps"}, {"optim.schedule": "linear"}),
    ("smoke", "optim.warmup_lr", "0", {"optim.warmup_epochs": 0}, {"optim.warmup_epochs": 1}),
    ("smoke", "data.augment.mix_epochs", "2", {}, {"data.augment.cutmix": 0.5}),
    ("probe", "loss.weights", "balanced", {}, {"probe.train": True}),
    ("probe", "data.augment.flip", "0", {}, {"probe.penalties": "[]"}),
    ("segmentation/smoke", "loss.auxiliary", "0.1", {"head.auxiliary": 0}, {"head.auxiliary": 8}),
    ("segmentation/smoke", "data.classes", "a.txt", {"data.source": "folders", "data.mapping": "m.yaml"}, None),
    ("detection/smoke", "heads.num_sampled", "64", {"heads.kind": "retinanet", "heads.masks": False}, {}),
]


@pytest.mark.parametrize(("name", "key", "value", "without", "effective"), IDLE, ids=lambda part: str(part)[:25])
def test_a_key_without_an_effect_is_refused(name, key, value, without, effective):
    module = tasks.get(name.partition("/")[0] if "/" in name else "classification")
    with pytest.raises(recipe.RecipeError, match=rf"{key} has no effect where"):
        recipe.parse(recipe.find(name), module.Recipe, {**without, key: value})
    recipe.parse(recipe.find(name), module.Recipe, without)
    if effective is not None:
        recipe.parse(recipe.find(name), module.Recipe, {**effective, key: value})
