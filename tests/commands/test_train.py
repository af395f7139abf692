"""What `sgformer train` adds to every task's run."""

import gc
import multiprocessing
import os
import threading
import types
from pathlib import Path

import pytest
from PIL import Image

import sgformer  # noqa: F401
from sgformer import tasks
from sgformer.commands.train import _significance, _start, to_share, train
from sgformer.engine import recipe


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model.weights": None}, "from scratch"),
        ({}, "from the weights sgformer_t"),
        ({"model.weights": None, "model.pretrained": True}, "from timm's trained weights"),
    ],
)
def test_a_run_says_what_it_starts_from(settings, words):
    parsed = recipe.parse(recipe.find("finetune"), tasks.get("classification").Recipe, settings)
    assert _start(parsed.model, None) == words
    assert _start(parsed.model, "runs/finetune") == "resumed"


@pytest.mark.parametrize("name", tasks.TASKS)
def test_significance_is_watched_in_every_task(name, tmp_path):
    task_module = tasks.get(name)
    path = recipe.find(f"{name}/smoke")
    task, data = task_module.build(recipe.parse(path, task_module.Recipe))
    (watcher,) = _significance(task.model, data, tmp_path)
    before = [module.training for module in task.modules()]
    trainer = types.SimpleNamespace(is_global_zero=True, sanity_checking=False, current_epoch=2, loggers=[])
    watcher.on_validation_epoch_start(trainer, task)
    sheet = Image.open(tmp_path / "significance" / "epoch-003.png")
    assert len(watcher.images) == 6
    assert sheet.height > 6 * 100  # a row for each
    assert [module.training for module in task.modules()] == before


def test_other_models_have_none_to_watch(tmp_path):
    task_module = tasks.get("classification")
    parsed = recipe.parse(recipe.find("smoke"), task_module.Recipe, {"model.name": "resnet10t"})
    task, data = task_module.build(parsed)
    assert _significance(task.model, data, tmp_path) == []


def num_open():
    """Processes of ours, threads, open files, and pieces of memory that processes share."""
    gc.collect()
    shared = len(os.listdir("/dev/shm")) if Path("/dev/shm").exists() else 0
    return (len(multiprocessing.active_children()), threading.active_count(), len(os.listdir("/proc/self/fd")), shared)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted on Linux")
def test_a_hundred_epochs_end_and_leave_nothing_open(tmp_path):
    overrides = {
        "model.name": "test_resnet",
        "data.scenes": {"num_train": 8, "num_val": 4, "size": 32},
        "data.image_size": 32,
        "data.batch_size": 4,
        "data.workers": 2,
        "trainer.tensorboard": False,
    }
    train("smoke", {**overrides, "trainer.max_epochs": 1}, out=tmp_path)
    before = num_open()
    folder = train("smoke", {**overrides, "trainer.max_epochs": 100}, out=tmp_path)
    assert len((folder / "metrics.csv").read_text().splitlines()) == 101
    assert num_open() == before


@pytest.mark.parametrize(
    ("task", "given", "kept"),
    [
        (
            "classification",
            {"train_list": "/elsewhere/train.csv", "val_shards": r"C:\data\a.tar", "classes": "names.txt"},
            {"train_list": None, "val_shards": None, "classes": "names.txt"},
        ),
        (
            "segmentation",
            {"classes": "/elsewhere/classes.txt", "mapping": "~/map.yaml", "images": "/data/{split}"},
            {"classes": "classes.txt", "mapping": None, "images": "images/{split}"},
        ),
        (
            "detection",
            {"train.images": "/elsewhere/photos", "val.annotations": "val.json"},
            {"train": {"images": None, "annotations": None}, "val": {"images": None, "annotations": "val.json"}},
        ),
    ],
)
def test_shared_weights_do_not_tell_where_data_lay(task, given, kept):
    sections = tasks.get(task).Recipe
    source: dict = {"task": task, "data": {"root": "photos"}}
    for key, value in given.items():
        *parents, name = key.split(".")
        place = source["data"]
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    content = to_share(recipe.parse(source, sections))
    assert {key: content["data"][key] for key in kept} == kept
    assert content["data"]["root"] is None
    recipe.parse(content, sections)
