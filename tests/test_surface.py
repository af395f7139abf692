"""What people import: light to predict with, and a task that goes into one's own trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What training needs and predicting does not.
OF_TRAINING = [
    *("lightning", "pytorch_lightning", "torchmetrics", "pydantic", "tensorboard", "matplotlib", "rich"),
    *("pycocotools", "pandas", "webdataset", "jinja2", "skimage", "sklearn"),
]


def test_models_of_all_tasks_predict_without_the_training_libraries(tmp_path):
    code = f"""
import sys

sys.modules.update(dict.fromkeys({OF_TRAINING!r}))
from pathlib import Path

import sgformer
from PIL import Image
from sgformer.tasks.classification.model import Classifier
from sgformer.tasks.detection.heads import HeadOptions
from sgformer.tasks.detection.model import Detector, Preprocessing as Sides
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation.model import HeadOptions as SegmentationHead, Segmenter

names, size = dict(classes=["a", "b"]), Preprocessing(image_size=(64, 64))
heads = HeadOptions(channels=16, box_channels=32, num_proposals=20)
for model in (
    Classifier("sgformer_test", preprocessing=size, **names),
    Detector("sgformer_test", preprocessing=Sides.of("sgformer_test", (64, 64)), heads=heads, **names),
    Segmenter("sgformer_test", preprocessing=size, head=SegmentationHead(channels=16, auxiliary=0), **names),
):
    model.save({str(tmp_path)!r} + "/weights.safetensors")
    again = sgformer.load({str(tmp_path)!r} + "/weights.safetensors")
    prediction = again.predict(Image.new("RGB", (80, 70)))
    print(again.task, type(again).__name__, bool(prediction.summary()), again.metadata["task"] == again.task)
"""
    printed = run_python(code).split()
    assert printed == [
        *("classification", "Classifier", "True", "True"),
        *("detection", "Detector", "True", "True"),
        *("segmentation", "Segmenter", "True", "True"),
    ]


@pytest.mark.parametrize(
    "name", ["load", "train", "evaluate", "predict", "SGFormer", "hold_significance", "plain"]
)
def test_names_at_the_top_are_there_and_what_they_say(name):
    import sgformer

    assert name in sgformer.__all__
    assert getattr(sgformer, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        sgformer.no_such_name  # noqa: B018


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_task_goes_into_one_s_own_trainer(tmp_path):
    """As docs/training.md shows it."""
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    code = page.split("## In your own trainer")[1].split("```python\n")[1].split("```")[0]
    scope = {"__name__": "example"}
    exec(code.replace("runs/own", str(tmp_path / "own")), scope)
    assert scope["task"].trainer.global_step == 4
    assert scope["model"].predict(scope["data"].examples()[0]).label in scope["model"].classes
