"""Real sets are read without a fault, where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from sgformer.engine import recipe
from sgformer.engine.sampling import Draw
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.task import Recipe


@pytest.mark.parametrize(
    ("name", "num_classes", "num_images"),
    [("nuclei", 1, (300, 56)), ("bccd", 3, (247, 51)), ("coco_tiny80", 80, (362, 89))],
)
def test_a_real_set_is_read(name, num_classes, num_images):
    folder = Path(os.environ.get("SGFORMER_DATA", "")) / name
    if "SGFORMER_DATA" not in os.environ or not folder.is_dir():
        pytest.skip(f"no {name}; set SGFORMER_DATA to the folder that holds it")
    parsed = recipe.parse(recipe.find(name), Recipe, {"data.root": str(folder)})
    module = DetectionData(parsed.data, masks=parsed.heads.masks)
    assert len(module.classes) == num_classes
    train, val = module.dataset("train"), module.dataset("val")
    assert (len(train), len(val)) == num_images
    for index in range(0, len(train), len(train) // 8):
        image, target = train[Draw(index, index)]
        boxes = target["boxes"].numpy()
        edges = np.array([image.shape[2], image.shape[1]] * 2)
        assert (boxes >= 0).all()
        assert (boxes <= edges).all()
        assert set(target["labels"].tolist()) <= set(range(1, num_classes + 1))
        if parsed.heads.masks:
            assert target["masks"].shape == (len(boxes), *image.shape[1:])
