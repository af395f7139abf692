import json

import pytest
import torch

import sgformer
from mask_folders import make_mask_folders
from sgformer.commands.evaluate import evaluate
from sgformer.commands.train import train
from sgformer.engine import recipe as recipes
from sgformer.engine import weights
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation import Recipe, Segmenter

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


def test_the_recipes_that_were_promised():
    promised = {"camvid", "coco_tiny80_semantic", "finetune", "smoke", "digit_scenes"}
    promised |= {f"upernet_sgformer_{size}_ade20k" for size in "tsmb"}
    promised |= {f"semantic_fpn_sgformer_{size}_ade20k" for size in "smb"}
    assert {name.split("/")[1] for name in NAMES} >= promised


def test_a_run_from_end_to_end(tmp_path):
    root = make_mask_folders(tmp_path / "data")
    overrides = {
        "data.source": "folders",
        "data.root": str(root),
        "data.image_size": 32,
        "data.batch_size": 3,
        "trainer.max_epochs": 25,
        "optim.lr": 5e-3,
        "data.augment.flip": 0.5,
    }
    folder = train("segmentation/smoke", overrides, out=tmp_path)
    report = evaluate(folder, json=tmp_path / "report.json")
    metrics = weights.read_metadata(folder)["metrics"]
    assert report.miou == pytest.approx(metrics["val_miou"], abs=1e-5)
    assert report.miou > 0.8
    assert json.loads((tmp_path / "report.json").read_text())["classes"][0]["class"] == "sky"
    model = sgformer.load(folder)
    assert model.predict(root / "images/val/1.png").indices.shape == (48, 64)
