"""A small data set in COCO's format: bright shapes on dark ground, with all that the format can hold."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}]


def make_coco(root: Path, *, num_train: int = 4, num_val: int = 3) -> Path:
    """Picture sizes differ; the last picture of each split is without objects, the one before has a crowd alone."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    image_id = 10
    for split, count in (("train", num_train), ("val", num_val)):
        images, annotations = [], []
        for number in range(count):
            image_id += 1
            height, width = (48 + 8 * (number % 3), 64 + 16 * (number % 2))
            pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            name = f"{split}{number}.png"
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            common = {"image_id": image_id, "iscrowd": 0}
            if number == count - 2:
                crowd = np.zeros((height, width), np.uint8)
                crowd[5:40, 5:50] = 1
                annotations.append(
                    {
                        **common,
                        "iscrowd": 1,
                        "category_id": 3,
                        "bbox": [5, 5, 45, 35],
                        "area": 1575,
                        "segmentation": _uncompressed(crowd),
                    }
                )
            elif number < count - 2:
                pixels[10:30, 8:28] = 255, 80, 80
                pixels[36:44, 10:50] = 80, 255, 80
                square = [8, 10, 28, 10, 28, 30, 8, 30]
                annotations.append(
                    {
                        **common,
                        "category_id": 3,
                        "bbox": [8, 10, 20, 20],
                        "segmentation": [square],
                        "area": 400,
                    }
                )
                bar = np.zeros((height, width), np.uint8)
                bar[36:44, 10:50] = 1
                rle = coco_mask.encode(np.asfortranarray(bar))
                rle["counts"] = rle["counts"].decode()
                annotations.append(
                    {**common, "category_id": 7, "bbox": [10, 36, 40, 8], "segmentation": rle, "area": 320}
                )
            Image.fromarray(pixels).save(root / "images" / name)
        for number, annotation in enumerate(annotations, 100):
            annotation["id"] = number
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES[::-1]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def _uncompressed(mask: np.ndarray) -> dict:
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}
