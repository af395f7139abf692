import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sgformer
from mask_folders import CLASSES, make_mask_folders
from sgformer.commands.evaluate import evaluate
from sgformer.commands.train import train
from sgformer.engine import recipe as recipes
from sgformer.engine import weights
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation import Segmenter
from sgformer.tasks.segmentation.task import Recipe
from sgformer_cli import run

NAMES = [name for name in recipes.names() if name.startswith("segmentation/")]
PREPROCESSING = Preprocessing(image_size=(32, 32))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_builds(name):
    parsed = recipes.parse(recipes.find(name), Recipe)
    num_classes = {"ade20k": 150, "digit_scenes": 11}.get(parsed.data.source, 11)
    with torch.device("meta"):
        Segmenter(
            parsed.model.name,
            classes=[str(i) for i in range(num_classes)],
            preprocessing=PREPROCESSING,
            kwargs=parsed.model.kwargs,
            head=parsed.head,
        )
    if parsed.model.weights:  # those that ship
        assert weights.read_metadata(parsed.model.weights)["model"]["name"] == parsed.model.name


def test_the_recipes_that_were_promised():
    promised = {"camvid", "coco_tiny80_semantic", "finetune", "smoke", "digit_scenes"}
    promised |= {"upernet_ade20k", "semantic_fpn_ade20k"}
    assert {name.split("/")[1] for name in NAMES} >= promised


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_mask_folders(tmp_path_factory.mktemp("stripes"))


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    """A run on stripes, which anything can learn."""
    overrides = {
        "data.source": "folders",
        "data.root": str(root),
        "data.image_size": 32,
        "data.batch_size": 3,
        "trainer.max_epochs": 25,
        "optim.lr": 5e-3,
        "data.augment.flip": 0.5,
    }
    return train("segmentation/smoke", overrides, out=tmp_path_factory.mktemp("runs"))


def test_a_run_from_end_to_end(root, folder, tmp_path):
    report = evaluate(folder, json=tmp_path / "report.json")
    metrics = weights.read_metadata(folder)["metrics"]
    assert report.miou == pytest.approx(metrics["val_miou"], abs=1e-5)
    assert report.miou > 0.8
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["classes"][0]["class"] == "sky"
    assert np.array(content["confusion"]).shape == (3, 3)
    model = sgformer.load(folder)
    assert model.predict(root / "images/val/1.png").indices.shape == (48, 64)


def test_the_page_of_a_run(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    for heading in ("How training went", "How the best weights do", "What is taken for what", "Recipe"):
        assert heading in page
    assert "of pixels wrong, most often" in page
    gallery = page.partition("The worst mistakes")[2].partition("<h2>")[0]
    assert gallery.count("<img") % 4 == 0  # image, truth, prediction, significance
    assert gallery.count("<img") > 0
    assert all(f"</i>{name}</span>" in page for name in CLASSES)


def test_predict_writes_maps_drawings_and_shares(root, folder, tmp_path, capsys):
    arguments = ["predict", str(folder), str(root / "images/val"), "--device=cpu", "--json", str(tmp_path / "p.json")]
    arguments += ["--maps", str(tmp_path / "maps"), "--draw", str(tmp_path / "drawn")]
    assert run([*arguments, "--window", "32", "--scales", "0.75,1.5", "--flip"]) == 0
    assert "sky" in capsys.readouterr().out
    model = sgformer.load(folder)
    rows = json.loads((tmp_path / "p.json").read_text())
    assert len(rows) == 3
    for row, name in zip(rows, ("0.png", "1.png", "2.png"), strict=True):
        with sgformer.fast_float32():  # as all commands compute
            expected = model.predict(row["image"], window=32, scales=[0.75, 1.5], flip=True)
        assert row["shares"] == expected.to_dict()["shares"]
        with Image.open(tmp_path / "maps" / name) as image:
            assert (np.asarray(image) == expected.indices).all()
            assert image.getpalette()[:3] == list(model.palette[0])
        with Image.open(tmp_path / "drawn" / name) as image:
            assert image.width > expected.indices.shape[1]


def test_predict_shows_how_far_a_large_image_is(root, folder, monkeypatch):
    shown = []
    from sgformer.commands import predict

    real = predict._windows

    def watched(bar, windows):
        for window in real(bar, windows):
            yield window
            shown.append([(task.completed, task.total) for task in bar.tasks])

    monkeypatch.setattr(predict, "_windows", watched)
    assert run(["predict", str(folder), str(root / "images/val/1.png"), "--window=32", "--device=cpu"]) == 0
    assert shown == [[(n, 6)] for n in range(6)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--window", "8"], "window 8 is too small"), (["--scales", "0"], "scales"), (["--scales", "x"], "--scales")],
)
def test_settings_of_predict_that_mean_nothing(root, folder, capsys, arguments, message):
    try:
        code = run(["predict", str(folder), str(root / "images/val/1.png"), "--device=cpu", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_settings_for_another_task(root, capsys):
    arguments = ["predict", "sgformer_t", str(root / "images/val/1.png"), "--device=cpu"]
    assert run([*arguments, "--maps", "maps"]) == 2
    assert "--maps is not for classification" in capsys.readouterr().err


def test_explain_a_segmenter(root, folder, tmp_path):
    out = tmp_path / "explained"
    assert run(["explain", str(folder), str(root / "images/val/1.png"), "--out", str(out), "--device=cpu"]) == 0
    assert "sky" in (out / "index.html").read_text(encoding="utf-8")
    with Image.open(out / "1" / "summary.png") as image:
        assert image.width > 100


SHORT = {"data.scenes.num_train": 32, "data.scenes.num_val": 3, "data.scenes.size": 32, "data.image_size": 32}


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_judge_as_one(tmp_path):
    num_val = 3
    settings = SHORT | {"data.scenes.num_val": num_val, "trainer.max_epochs": 1, "trainer.devices": 2}
    settings |= {"trainer.accelerator": "cpu", "trainer.tensorboard": "false"}
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [sys.executable, "-m", "sgformer", "train", "segmentation/smoke", "--out", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "smoke" / "last.safetensors"
    metrics = weights.read_metadata(path)["metrics"]
    for batch_size in (1, 3):
        report = evaluate(path, {"data.batch_size": batch_size})
        assert report.num_images == num_val
        for name in ("miou", "mean_accuracy", "pixel_accuracy"):
            assert metrics[f"val_{name}"] == pytest.approx(getattr(report, name), abs=1e-6)
