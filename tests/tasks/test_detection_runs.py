"""Whole runs of a detector: two processes, a run that was interrupted, bf16, `explain`."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("pycocotools", reason="the task needs pycocotools")

import sgformer_cli as cli
from coco_files import make_rectangles
from sgformer.commands.predict import predict
from sgformer.commands.train import train
from sgformer.engine import weights

SETTINGS = {
    "data.scenes.num_train": 8,
    "data.scenes.num_val": 3,
    "data.scenes.size": 48,
    "data.shorter_side": 48,
    "data.max_side": 48,
    "data.augment.shorter_sides": "[40, 48, 56]",
    "data.augment.flip": 0.5,
    "data.augment.photometric": 0.5,
    "heads.channels": 8,
    "heads.box_channels": 16,
    "model.drop_path_rate": 0.2,
    "trainer.accelerator": "cpu",
    "trainer.tensorboard": "false",
}


def in_processes(folder, **settings):
    """Run the command line in processes of their own."""
    arguments = [f"--{key}={value}" for key, value in {**SETTINGS, **settings}.items()]
    return subprocess.run(
        [sys.executable, "-m", "sgformer", "train", "detection/smoke", "--out", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.exhaustive
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_judge_all_images(tmp_path):
    """Three images: one process has two of them, the other one. They find what one process finds."""
    done = in_processes(tmp_path, **{"trainer.devices": 2, "data.batch_size": 2, "trainer.max_epochs": 1})
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "smoke"
    assert (folder / "report.html").is_file()  # which one process makes by itself
    assert "no report.html" not in done.stdout
    tensors, metadata = weights.read(folder / "last.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    from sgformer.commands.evaluate import evaluate

    report = evaluate(folder / "last.safetensors", device="cpu")
    assert report.num_images == 3
    assert metadata["metrics"]["val_box_ap"] == pytest.approx(report.box["ap"], abs=1e-6)
    assert metadata["metrics"]["val_mask_ap50"] == pytest.approx(report.mask["ap50"], abs=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {**SETTINGS, "trainer.max_epochs": 1, "trainer.precision": "bf16-mixed"}
    return train("detection/smoke", settings, out=tmp_path_factory.mktemp("bf16"))


def test_bf16_and_the_page_about_it(run):
    tensors, _ = weights.read(run / "last.safetensors")
    assert all(tensor.dtype == torch.float32 and torch.isfinite(tensor).all() for tensor in tensors.values())
    page = (run / "report.html").read_text("utf-8")
    assert "Precision and recall" in page
    assert ">IoU 0.95<" in page


def test_explain_draws_what_was_found_over_what_was_significant(run, tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 60), "gray").save(tmp_path / "image.png")
    out = tmp_path / "explained"
    arguments = ["explain", str(run), str(tmp_path / "image.png"), "--out", str(out), "--device=cpu"]
    assert cli.run(arguments) == 0
    names = {path.name for path in (out / "image").iterdir()}
    assert {"summary.png", "objects.png", "stage1_pair1_significance.png"} <= names
    with Image.open(out / "image" / "objects.png") as drawn:
        assert drawn.size == (720, 480)


def test_what_was_found_in_cocos_format(run, tmp_path, capsys):
    """COCO's own tools read it, as annotations and as results."""
    from PIL import Image
    from pycocotools.coco import COCO
    from skimage import data

    Image.fromarray(data.chelsea()).save(tmp_path / "cat.png")
    Image.new("RGB", (90, 60), "gray").save(tmp_path / "gray.png")
    (tmp_path / "broken.png").write_bytes(b"no")
    arguments = ["predict", run, tmp_path, "--coco", tmp_path / "coco.json", "--json", tmp_path / "all.json"]
    arguments += ["--score_threshold", 0.0, "--device", "cpu"]
    assert cli.run([str(argument) for argument in arguments]) == 1
    found = COCO(tmp_path / "coco.json")
    names = [found.imgs[number]["file_name"] for number in sorted(found.imgs)]
    assert names == [str(tmp_path / "cat.png"), str(tmp_path / "gray.png")]
    assert [category["name"] for category in found.loadCats(found.getCatIds())] == list("0123456789")
    plain = [one for one in json.loads((tmp_path / "all.json").read_text()) if "objects" in one]
    assert [len(found.getAnnIds(number)) for number in (1, 2)] == [len(one["objects"]) for one in plain]
    annotations = found.loadAnns(found.getAnnIds())
    assert annotations, "the detector found nothing at all, so nothing was looked at"
    for annotation in annotations:
        image = found.imgs[annotation["image_id"]]
        mask = found.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        assert 0 <= annotation["score"] <= 1
    assert len(found.loadRes(annotations).anns) == len(annotations)


def test_cocos_format_is_for_detectors(tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 60), "gray").save(tmp_path / "gray.png")
    with pytest.raises(ValueError, match=r"--coco is not for classification"):
        predict("sgformer_t", [str(tmp_path / "gray.png")], coco=tmp_path / "coco.json", device="cpu")


CUT = """
import runpy, sys
from pathlib import Path
from sgformer.tasks.detection.task import DetectionTask

def cut(task):
    path = Path(sys.argv[-1].split("=")[1], "images", "train", "1.jpg")
    path.write_bytes(path.read_bytes()[:700])

DetectionTask.on_train_start = cut
runpy.run_module("sgformer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_a_process_whose_share_cannot_be_read_keeps_no_other_waiting(tmp_path):
    root = make_rectangles(tmp_path / "set")
    settings = {
        **SETTINGS,
        "trainer.devices": 2,
        "trainer.max_epochs": 2,
        "trainer.report": "false",
        "data.source": "coco",
        "data.batch_size": 2,
        "data.max_unreadable": 0.9,
        "data.root": root,
    }
    arguments = [f"--{key}={value}" for key, value in settings.items() if "scenes" not in key]
    (tmp_path / "cut.py").write_text(CUT)  # Lightning starts the second process by the same file
    done = subprocess.run(
        [sys.executable, tmp_path / "cut.py", "train", "detection/smoke", "--out", tmp_path, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert any("1.jpg" in file.read_text() for file in (tmp_path / "smoke").glob("unreadable*.csv"))
