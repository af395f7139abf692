"""The demo's words and images, around a training that is left out here; `make demo` runs the whole."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="the demo needs scikit-image")
pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
pytest.importorskip("lightning", reason="the demo trains with Lightning")

from sgformer.commands import demo as demo_module
from sgformer.commands import evaluate as evaluate_module
from sgformer.commands import train as train_module
from sgformer.tasks.classification import Classifier
from sgformer.tasks.digit_scenes import DigitScenes
from sgformer.tasks.images import Preprocessing

RECIPE = {"task": "classification", "data": {"source": "digit_scenes", "scenes": {"num_val": 20, "size": 64}}}


@pytest.fixture
def run_folder(tmp_path):
    """What training would leave behind, with weights that were never trained."""

    def make(name="sgformer_test"):
        preprocessing = Preprocessing(image_size=(64, 64), crop_fraction=1.0)
        model = Classifier(name, classes=DigitScenes.classes, preprocessing=preprocessing)
        folder = tmp_path / "digit_scenes"
        folder.mkdir()
        model.save(folder / "best.safetensors", recipe=RECIPE)
        return folder

    return make


def test_demo_leaves_images_and_says_what_to_do_next(run_folder, monkeypatch, capsys):
    folder, asked = run_folder(), []

    def train(recipe, overrides, *, out):
        asked.append((recipe, overrides, out))
        return folder

    monkeypatch.setattr(train_module, "train", train)
    monkeypatch.setattr(evaluate_module, "evaluate", lambda run: SimpleNamespace(top1=0.9, num_images=20))
    assert demo_module.demo({"trainer.max_epochs": 1}, out="here") == folder
    assert asked == [("digit_scenes", {"trainer.max_epochs": 1}, "here")]

    said = capsys.readouterr().out
    for words in ("90.0%", "chance: 10%", "significance.png", f"sgformer predict {folder}", "finetune"):
        assert words in said
    images = sorted((folder / "images").iterdir())
    assert len(images) == demo_module.NUM_IMAGES
    assert Image.open(images[0]).size == (64, 64)
    assert np.asarray(Image.open(folder / "significance.png")).std() > 10


def test_sheet_shows_maps_and_some_mistakes(run_folder):
    sheet, scenes = demo_module.draw(run_folder(), accuracy=0.1, num_judged=20)
    assert len(scenes) == demo_module.NUM_IMAGES
    assert sheet.width > 4 * 176  # image, all pairs, one map a stage with pairs


def test_a_model_without_maps_is_drawn_without_them(run_folder):
    sheet, _ = demo_module.draw(run_folder("test_resnet"), accuracy=0.1, num_judged=20)
    assert sheet.width < 4 * 176


def test_missing_packages_show_before_anything_is_trained(monkeypatch, tmp_path):
    from sgformer.tasks import digit_scenes

    digit_scenes._photographs.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ImportError, match=r"sgformer\[demo\]"):
        demo_module.demo(out=tmp_path)
    assert not list(tmp_path.iterdir())
