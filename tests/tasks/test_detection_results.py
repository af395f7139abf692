"""Results with the ids of an annotation file, many objects, large images, and images that break during a run."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sgformer
import sgformer_cli as cli
from coco_files import make_coco, make_rectangles, read
from sgformer.commands.evaluate import evaluate
from sgformer.commands.predict import predict
from sgformer.commands.train import train
from sgformer.engine.callbacks import UnreadableError
from sgformer.tasks.detection import Detections
from sgformer.tasks.detection.evaluation import CocoMetric, make_report
from sgformer.tasks.errors import DataError

SETTINGS = {
    "data.source": "coco",
    "data.shorter_side": 48,
    "data.max_side": 72,
    "data.batch_size": 2,
    "trainer.max_epochs": 1,
    "heads.channels": 8,
    "heads.box_channels": 16,
    "trainer.report": "false",
    "trainer.significance": "false",
    "trainer.accelerator": "cpu",
    "trainer.tensorboard": "false",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_rectangles(tmp_path_factory.mktemp("set") / "set")
    for split in ("train", "val"):  # ids that no place in a list could give
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        for row in content["images"]:
            row["id"] += 1000
        for row in content["categories"]:
            row["id"] *= 7
        for row in content["annotations"]:
            row["image_id"] += 1000
            row["category_id"] *= 7
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    return train("detection/smoke", {**SETTINGS, "data.root": str(root)}, out=tmp_path_factory.mktemp("runs"))


def lively(run, folder):
    """The run's weights with values that let it find something."""
    import sgformer

    model = sgformer.load(run)
    torch.manual_seed(1)
    for part in (model.roi_heads.box_predictor, model.roi_heads.mask_predictor):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.save(folder / "lively.safetensors")
    return folder / "lively.safetensors"


def test_pycocotools_takes_what_predict_and_evaluate_write(root, run, tmp_path):
    weights, file = lively(run, tmp_path), root / "annotations" / "instances_val.json"
    truth = COCO(str(file))
    arguments = ["predict", weights, root / "images" / "val", "--coco", tmp_path / "found.json", "--device=cpu"]
    arguments += ["--annotations", file, "--score-threshold", "0.05"]
    assert cli.run([str(argument) for argument in arguments]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found
    assert {row["image_id"] for row in found} <= {1001, 1002}
    assert {row["category_id"] for row in found} <= {7, 14}
    assert len(truth.loadRes(str(tmp_path / "found.json")).anns) == len(found)
    with pytest.warns(UserWarning, match=r"1 images of .*instances_val\.json are not among these"):
        predict(weights, [str(root / "images/val/0.jpg")], coco=tmp_path / "one.json", annotations=file, device="cpu")

    report = evaluate(weights, SETTINGS_OF(root), coco=tmp_path / "all.json", device="cpu")
    judge = COCOeval(truth, truth.loadRes(str(tmp_path / "all.json")), "segm")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(report.mask["ap"], abs=1e-9)
    assert len(json.loads((tmp_path / "all.json").read_text())) == len(found)  # down to the same score


def SETTINGS_OF(root):
    return {"data.source": "coco", "data.root": str(root), "data.shorter_side": 48, "data.max_side": 72}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["images"].pop(), "lists no image"),
        (lambda c: c["categories"].pop(), "no categories called blue"),
        (lambda c: c["images"][0].update(file_name="1.jpg"), "lists no image"),
        (lambda c: c["images"][0].update(file_name=3), "file_name 3 is not text"),
        (lambda c: c["images"][0].update(width=640, height=480), r"96x64 pixels, and by .* 640x480"),
        (lambda c: c["images"][0].update(width="96"), r"width '96' is text, not a whole number"),
    ],
)
def test_annotations_that_lack_something_are_refused_before_anything_is_found(root, run, tmp_path, edit, message):
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    edit(content)
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        predict(
            run,
            [str(root / "images" / "val")],
            coco=tmp_path / "found.json",
            annotations=tmp_path / "other.json",
            device="cpu",
        )
    assert not (tmp_path / "found.json").exists()
    with pytest.raises(ValueError, match="would overwrite"):
        predict(
            run,
            [str(root / "images" / "val")],
            coco=tmp_path / "other.json",
            annotations=tmp_path / "other.json",
            device="cpu",
        )


def test_nothing_is_written_where_data_are_refused(root, tmp_path):
    settings = {**SETTINGS, "data.root": str(root), "data.train.annotations": "annotations/instances_val.json"}
    content = json.loads((root / "annotations" / "instances_val.json").read_text())
    content["images"][0]["width"] = "96"
    (root / "annotations" / "broken.json").write_text(json.dumps(content))
    settings["data.val.annotations"] = "annotations/broken.json"
    with pytest.raises(DataError, match="width '96' is text"):
        train("detection/smoke", settings, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_where_nothing_can_be_evaluated_the_last_epoch_is_kept(tmp_path, capsys):
    root = make_rectangles(tmp_path / "set")
    path = root / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    settings = {**SETTINGS, "data.root": str(root), "trainer.max_epochs": 2}
    run = train("detection/smoke", settings, out=tmp_path / "runs")
    said = capsys.readouterr().out
    assert "nothing can be evaluated" in said
    assert "nan" not in said.splitlines()[1]
    assert not (run / "best.safetensors").exists()
    assert (run / "last.safetensors").is_file()
    with pytest.raises(DataError, match="nothing can be evaluated: there are 2 images and no objects"):
        evaluate(run, device="cpu")


@pytest.mark.parametrize("key", ["heads.channels", "optim.lr", "data.augment.flip"])
def test_a_key_that_evaluation_does_not_follow_is_refused(run, key):
    with pytest.raises(ValueError, match=rf"--{key} is not followed"):
        evaluate(run, {key: 0.3}, device="cpu")


def test_a_key_of_another_task_is_refused_in_evaluation(run):
    with pytest.raises(ValueError, match=r"unknown recipe key 'data\.bands'"):
        evaluate(run, {"data.bands.mean": 0.3}, device="cpu")


def test_trained_weights_can_find_more_or_fewer(run, root, tmp_path, capsys):
    most = max(Counter(row["image_id"] for row in evaluate(run, device="cpu").results).values())
    assert most > 2
    fewer = evaluate(run, {"heads.max_detections": "2"}, device="cpu").results
    assert max(Counter(row["image_id"] for row in fewer).values()) == 2
    out = tmp_path / "found.json"
    settings = {"coco": out, "score_threshold": 0.0, "device": "cpu"}
    predict(run, [str(root / "images" / "val")], max_detections=1, **settings)
    assert len(json.loads(out.read_text())["annotations"]) == 2
    assert "--score_threshold" not in capsys.readouterr().err
    predict(run, [str(root / "images" / "val")], **{**settings, "score_threshold": 1.0})
    assert "score of 1 or more; a lower --score_threshold" in capsys.readouterr().err
    model = sgformer.load(run)
    model.set_max_detections(150)
    assert model.roi_heads.detections_per_img == model.heads.max_detections == 150
    for wrong in ("many", 0):
        with pytest.raises(ValueError, match="max_detections"):
            evaluate(run, {"heads.max_detections": wrong}, device="cpu")
    with pytest.raises(ValueError, match="max_detections 0 must be at least 1"):
        predict(run, [str(root / "images" / "val")], max_detections=0, device="cpu")


def test_a_detector_with_masks_is_judged_by_boxes_alone(tmp_path):
    root = make_rectangles(tmp_path / "set")
    kept = train("detection/smoke", {**SETTINGS, **SETTINGS_OF(root), "heads.masks": True}, out=tmp_path / "runs")
    whole = evaluate(kept, device="cpu")
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        del row["segmentation"]
    lost = {"images": [*content["images"], {**content["images"][0], "id": 1000, "file_name": "lost.png"}]}
    for more in (lost, {}):
        path.write_text(json.dumps({**content, **more}))
        with pytest.raises(DataError, match=r"has no mask; .* --heads\.masks false, or evaluate") as error:
            evaluate(kept, device="cpu")
    assert str(error.value).count("has no mask") == 1
    assert "drop" not in str(error.value)  # of all objects
    boxes = evaluate(kept, {"heads.masks": "false"}, device="cpu")
    assert boxes.mask is None
    assert boxes.box == whole.box
    with pytest.raises(ValueError, match=r"heads\.masks is not followed here but as false"):
        evaluate(kept, {"heads.masks": "true"}, device="cpu")


# ---- many objects


@pytest.mark.parametrize("num", [150, 250])
def test_the_metric_goes_as_far_as_the_model_may(num):
    left = 3.0 * torch.arange(num)
    boxes = torch.stack([left, torch.zeros(num), left + 2, torch.full((num,), 9.0)], 1)
    target = {"boxes": boxes, "labels": torch.ones(num, dtype=torch.int64), "iscrowd": torch.zeros(num)}
    target["area"] = torch.full((num,), 18.0)
    found = {**target, "scores": torch.linspace(1, 0.1, num)}
    for limit, expected in ((100, 100 / num), (300, 1.0)):
        metric = CocoMetric(masks=False, max_detections=limit)
        metric.update([found], [target])
        report = make_report(metric, ("a",))
        assert report.box["ar100"] == pytest.approx(expected)
        assert report.box["ap"] == pytest.approx(expected, abs=0.01)


def test_a_prediction_says_that_there_may_be_more():
    boxes = np.array([[1, 1, 5, 5], [2, 2, 9, 9]], np.float32)
    found = Detections((10, 10), boxes, ("a", "a"), np.array([0.9, 0.8], np.float32), (1, 1), limit=2)
    assert "no more than 2" in found.summary()
    assert found.to_dict()["max_detections"] == 2


LARGE = """
import re, numpy as np
from sgformer.tasks.detection import Detections
rng = np.random.default_rng(0)
corner = rng.uniform(0, 2000, (100, 2))
boxes = np.concatenate([corner, corner + rng.uniform(900, 1900, (100, 2))], 1).astype(np.float32)
found = Detections((4000, 6000), boxes, ("a",) * 100, np.ones(100, np.float32), (1,) * 100,
                   rng.random((100, 28, 28), dtype=np.float32))
found.summary()
assert len(found.to_dict()["objects"]) == 100
# Not getrusage, whose peak a process takes over from the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is measured in Linux's units")
def test_a_hundred_masks_of_a_large_image_take_little_memory():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5  # GiB; the model adds less than half of one


# ---- images that break


@pytest.fixture
def breaks(tmp_path, monkeypatch):
    """A set of which one training and one validation image are cut off once the run has looked at the data."""
    from sgformer.tasks.detection.task import DetectionTask

    root = make_rectangles(tmp_path / "set")
    begin = DetectionTask.on_validation_epoch_start

    def cut(task):
        for name in ("train/1.jpg", "val/1.jpg"):
            path = root / "images" / name
            path.write_bytes(path.read_bytes()[:700])
        begin(task)

    monkeypatch.setattr(DetectionTask, "on_validation_epoch_start", cut)
    return root


def test_a_cut_off_image_is_left_out_named_and_counted(breaks, tmp_path, capsys):
    settings = {**SETTINGS, "data.root": str(breaks), "trainer.max_epochs": 3, "data.max_unreadable": 0.5}
    run = train("detection/smoke", settings, out=tmp_path / "runs")
    assert len((run / "metrics.csv").read_text().splitlines()) == 4
    table = (run / "unreadable.csv").read_text()
    assert "train/1.jpg" in table
    assert "val/1.jpg" in table
    assert "left out:" in capsys.readouterr().out
    report = evaluate(run, device="cpu")
    assert report.num_images == 1
    assert any("val/1.jpg" in line for line in report.to_lines())


def test_too_many_cut_off_images_end_the_run(breaks, tmp_path):
    settings = {**SETTINGS, "data.root": str(breaks), "trainer.max_epochs": 3, "data.max_unreadable": 0.01}
    with pytest.raises(UnreadableError, match=r"1 of 6 .*data\.max_unreadable"):
        train("detection/smoke", settings, out=tmp_path / "runs")


def test_a_batch_of_nothing_that_can_be_read_moves_no_weight(tmp_path):
    from sgformer.tasks.backbones import ModelOptions
    from sgformer.tasks.detection.data import DataOptions
    from sgformer.tasks.detection.task import Recipe, build
    from sgformer.tasks.loading import collate_listed

    root = make_coco(tmp_path / "coco")
    data = DataOptions(root=str(root), shorter_side=48, max_side=96, workers=0)
    task, module = build(Recipe(model=ModelOptions(name="sgformer_test"), data=data))
    (root / "images" / "train0.png").write_bytes(b"")
    batch = collate_listed([module.dataset("train")[0]])
    assert [row.path for row in batch.unreadable] == [str(root / "images" / "train0.png")]
    loss = task.loss(batch)
    assert loss.item() == 0
    loss.backward()


def test_the_first_of_several_pages_is_counted(tmp_path):
    root = make_rectangles(tmp_path / "set")
    pages = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue")]
    pages[0].save(root / "images" / "train" / "0.tif", save_all=True, append_images=pages[1:])
    (root / "images" / "train" / "0.jpg").unlink()
    assert "images that are files of several pages or frames, of which the first is read: 1" in str(read(root, "yolo"))
    shutil.rmtree(root)
