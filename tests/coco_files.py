"""A small data set in COCO's format: bright shapes on dark ground, with all that the format can hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from sgformer.tasks.detection.data import DataOptions, DetectionData

CATEGORIES = [{"id": 3, "name": "disc"}, {"id": 7, "name": "bar"}]


def make_coco(root: Path, *, num_train: int = 4, num_val: int = 3) -> Path:
    """Image sizes differ; the last image of each split is without objects, the one before has a crowd alone."""
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
                    {**common, "category_id": 3, "bbox": [8, 10, 20, 20], "segmentation": [square], "area": 400}
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


# What a run says first of `make_rectangles`.
PLAIN = "2 classes (red 4, blue 4), 4 + 2 images, 8 + 4 objects, 0 + 0 crowds"


def read(root, source="coco", *, masks=None, classes=None, splits=("train", "val"), alone=True, **options):
    """The data of a set as a run on it reads them; ``alone``, as if `make_rectangles` wrote one format."""
    options = {"shorter_side": 64, "max_side": 96, **options}
    options = DataOptions(root=str(root), source=source, workers=0, **options)
    masks = source == "coco" if masks is None else masks
    root = Path(root).resolve()
    others = {"coco": ("labels", "data.yaml"), "yolo": ("annotations",)}.get(source, ())
    hidden = [root / name for name in others if alone and (root / name).exists()]
    for path in hidden:
        path.rename(root / f".{path.name}")
    try:
        return DetectionData(options, masks=masks, max_detections=100, classes=classes, splits=splits)
    finally:
        for path in hidden:
            (root / f".{path.name}").rename(path)


def make_rectangles(root: Path) -> Path:
    """Four training and two validation images of 96x64 with a red and a blue rectangle each, for COCO and for YOLO."""
    (root / "annotations").mkdir(parents=True)
    for split, count, gray in (("train", 4, 110), ("val", 2, 120)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            image, lines = Image.new("RGB", (96, 64), (gray, gray, gray)), []
            images.append({"id": i + 1, "width": 96, "height": 64, "file_name": f"{split}/{i}.jpg"})
            for k, (x, y, w, h) in enumerate(((10 + i, 12, 20, 24), (60, 30 - i, 24, 18))):
                fill = ((220, 30, 30), (30, 30, 220))[k]
                ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=fill)
                lines.append(f"{k} {(x + w / 2) / 96:.6f} {(y + h / 2) / 64:.6f} {w / 96:.6f} {h / 64:.6f}")
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": k + 1,
                        "iscrowd": 0,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )
            image.save(root / "images" / split / f"{i}.jpg")
            (root / "labels" / split / f"{i}.txt").write_text("\n".join(lines) + "\n")
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, blue]\n")
    return root


def _uncompressed(mask: np.ndarray) -> dict:
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def change(root: Path, edit: Callable[[Any], object], split: str = "train") -> None:
    """Edits the content of a split's annotation file in place."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
