"""`sgformer explain` from end to end: the files that it leaves, whole images, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from sgformer.commands.explain import explain_image
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.detection.heads import HeadOptions
from sgformer.tasks.detection.model import Detector
from sgformer.tasks.detection.model import Preprocessing as Sides
from sgformer.tasks.images import Preprocessing
from sgformer_cli import run

CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    preprocessing = Preprocessing(image_size=(64, 64), crop_fraction=0.8)
    Classifier("sgformer_test", classes=CLASSES, preprocessing=preprocessing).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (90, 200, 3), np.uint8)
    Image.fromarray(values).save(folder / "one.png")
    Image.fromarray(values[:, :70]).save(folder / "more" / "one.png")
    return folder


def test_files_for_every_map_and_one_page(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert run(["explain", str(weights), str(images), "--out", str(out), "--device=cpu"]) == 1
    assert "skipped" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"index.html", "one", "one-2"}
    expected = {f"stage{s}_pair1_{view}.png" for s in (1, 2, 3) for view in ("significance", "spending", "keys")}
    expected |= {"summary.png", "stage1.png", "stage2.png", "stage3.png"}
    assert {path.name for path in (out / "one").iterdir()} == expected
    sizes = {Image.open(out / name / "stage2_pair1_keys.png").size for name in ("one", "one-2")}
    assert sizes == {(200, 90), (70, 90)}
    assert "sgformer_test" in (out / "index.html").read_text("utf-8")


def test_the_whole_image_is_seen_at_the_scale_of_evaluation(weights):
    model = Classifier.from_weights(weights)
    wide = Image.new("RGB", (400, 100))
    assert model.prepare(wide).shape == (1, 3, 80, 320)
    assert model.prepare(wide, size=50).shape == (1, 3, 50, 200)
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    plain = Preprocessing(image_size=(64, 64), crop_fraction=1.0)
    model.preprocessing = plain
    torch.testing.assert_close(model.prepare(square)[0], plain.transform()(square), atol=1e-5, rtol=0)


def test_a_detector_sees_the_whole_image_at_its_own_size():
    preprocessing = Sides.of("sgformer_test", (50, 100))
    heads = HeadOptions(channels=16, box_channels=32)
    model = Detector("sgformer_test", classes=["a"], preprocessing=preprocessing, heads=heads)
    assert model.prepare(Image.new("RGB", (300, 100))).shape == (1, 3, 33, 100)
    assert model.prepare(Image.new("RGB", (300, 100)), size=40).shape == (1, 3, 40, 120)


def test_arrays_from_python(weights):
    explanation = explain_image(Classifier.from_weights(weights), np.zeros((50, 75, 3), np.uint8))
    assert explanation.size == (80, 120)
    assert explanation.pairs[0].significance.shape == (20, 30)


def test_a_budget_shows(weights, images, tmp_path):
    arguments = ["explain", str(weights), str(images / "one.png"), "--out", str(tmp_path / "out"), "--device=cpu"]
    assert run([*arguments, "--token_budget", "5", "--size", "96"]) == 0
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "1,296 tokens, 5 keys" in page  # 24 x 54


@pytest.mark.parametrize(
    ("extra", "message"), [(["--size", "20"], "size 20 is too small"), (["--token_budget", "2"], "token_budget is 2")]
)
def test_what_is_refused(weights, images, tmp_path, capsys, extra, message):
    arguments = ["explain", str(weights), str(images), "--out", str(tmp_path / "out"), "--device=cpu"]
    assert run([*arguments, *extra]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_model_without_significance_is_named(images, tmp_path, capsys):
    path = tmp_path / "resnet.safetensors"
    preprocessing = Preprocessing(image_size=(64, 64))
    Classifier("test_resnet", classes=CLASSES, preprocessing=preprocessing).save(path)
    assert run(["explain", str(path), str(images), "--out", str(tmp_path / "out"), "--device=cpu"]) == 2
    assert "has no forward_significance" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
