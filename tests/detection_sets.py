"""Random sets for detection in the formats of COCO, YOLO, Pascal VOC and LabelMe, with faults, and what is right."""

import base64
import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

NAMES = ["a", "b", "c"]
# Of each format a few random sets, and 300 where time is no matter.
SEEDS = [pytest.param(range(15), id="few"), pytest.param(range(15, 315), id="many", marks=pytest.mark.exhaustive)]


class Right(NamedTuple):
    """What must be read of a split.

    Attributes:
        num_images: Images that can be used.
        objects: How many of each class.
        num_crowds: Regions that count neither way.
        faults: How many things must be named as wrong.
    """

    num_images: int
    objects: Counter[str]
    num_crowds: int
    faults: int


class Maker:
    """Writes a random set; ``right`` holds what must be read of each split."""

    def __init__(self, root: Path, source: str, seed: int) -> None:
        self.root, self.source, self.random = root, source, random.Random(seed)
        self.right: dict[str, Right] = {}
        root.mkdir()
        for split in ("train", "val"):
            getattr(self, f"_{source}")(split)

    def _sizes(self) -> list[tuple[int, int]]:
        return [(self.random.randint(12, 40), self.random.randint(12, 40)) for _ in range(self.random.randint(1, 4))]

    def _boxes(self, width: int, height: int) -> list[tuple[float, float, float, float]]:
        boxes = []
        for _ in range(self.random.randint(0, 4)):
            w, h = self.random.uniform(2, width - 2), self.random.uniform(2, height - 2)
            boxes.append((self.random.uniform(0, width - w), self.random.uniform(0, height - h), w, h))
        return [tuple(round(value, 3) for value in box) for box in boxes]

    def _image(self, path: Path, size: tuple[int, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)

    def _coco(self, split: str) -> None:
        images, annotations = [], []
        objects: Counter[str] = Counter()
        num_crowds = faults = num_images = 0
        for number, (width, height) in enumerate(self._sizes(), 1):
            name = f"{split}{number}.png"
            row = {"id": number, "file_name": name, "width": width, "height": height}
            images.append(row)
            lost = self.random.random() < 0.1
            if lost:
                faults += 1
                spoil = self.random.choice(["missing", "size", "text"])
                row["width"] = {"size": width + 1, "text": str(width)}.get(spoil, width)
            if not lost or spoil != "missing":
                self._image(self.root / "images" / name, (width, height))
            num_images += not lost
            for box in self._boxes(width, height):
                x, y, w, h = box
                label = self.random.randrange(3)
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                one = {"id": len(annotations), "image_id": number, "category_id": label + 1, "bbox": [*box]}
                one |= {"iscrowd": int(self.random.random() < 0.1), "segmentation": [polygon]}
                if self.random.random() < 0.3:
                    one["area"] = w * h
                kind = self.random.choice(["right"] * 8 + list(COCO_FAULTS) + list(COCO_OTHERS))
                good = kind not in COCO_FAULTS
                if kind in COCO_FAULTS:
                    COCO_FAULTS[kind](one, width, height)
                elif kind in COCO_OTHERS:
                    COCO_OTHERS[kind](one, width, height)
                annotations.append(one)
                if kind != "image" and lost:
                    continue
                if self.random.random() < 0.1:
                    annotations.append({**one, "id": len(annotations)})
                    faults += not good
                faults += not good
                objects[NAMES[label]] += good and not one["iscrowd"]
                num_crowds += good and one["iscrowd"] == 1
        categories = [{"id": place, "name": name} for place, name in enumerate(NAMES, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (self.root / "annotations").mkdir(exist_ok=True)
        (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (self.root / "images").mkdir(exist_ok=True)
        self.right[split] = Right(num_images, objects, num_crowds, faults)

    def _yolo(self, split: str) -> None:
        objects: Counter[str] = Counter()
        faults = num_images = 0
        folder = self.root / "labels" / split
        folder.mkdir(parents=True)
        for number, (width, height) in enumerate(self._sizes()):
            self._image(self.root / "images" / split / f"{number}.png", (width, height))
            num_images += 1
            lines = []
            for x, y, w, h in self._boxes(width, height):
                label = self.random.randrange(3)
                values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
                polygon = [x / width, y / height, (x + w) / width, y / height, (x + w) / width, (y + h) / height]
                words = [str(label), *map(str, self.random.choice([values, polygon]))]
                if self.random.random() < 0.15:
                    words = self.random.choice(YOLO_FAULTS)(words)
                    faults += 1
                else:
                    objects[NAMES[label]] += 1
                    lines += [" ".join(words)] * (self.random.random() < 0.1)
                lines.append(" ".join(words))
            if lines or self.random.random() < 0.5:
                end = self.random.choice(["\n", "\r\n"])
                mark = self.random.choice(["", "\ufeff"])
                (folder / f"{number}.txt").write_bytes((mark + end.join(lines) + end).encode())
        (self.root / "data.yaml").write_text(json.dumps({"names": NAMES}))
        self.right[split] = Right(num_images, objects, 0, faults)

    def _voc(self, split: str) -> None:
        objects: Counter[str] = Counter()
        faults = num_images = 0
        listed = []
        (self.root / "Annotations").mkdir(exist_ok=True)
        for number, (width, height) in enumerate(self._sizes()):
            stem = f"{split}{number}"
            self._image(self.root / "JPEGImages" / f"{stem}.png", (width, height))
            damaged = self.random.random() < 0.1
            things = ""
            for x, y, w, h in self._boxes(width, height):
                label = NAMES[self.random.randrange(3)]
                edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                if self.random.random() < 0.15:
                    edges[self.random.choice(list(edges))] = self.random.choice(["", "left", "nan", -99, 999])
                    faults += not damaged
                else:
                    objects[label] += not damaged
                box = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges.items())
                thing = f"<object><name>{label}</name><bndbox>{box}</bndbox></object>"
                things += thing
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            name = self.random.choice([f"{stem}.png", f"C:\\{stem}.png", "elsewhere.jpg", ""])
            text = f"<annotation><filename>{name}</filename>{size}{things}</annotation" + ">" * (not damaged)
            (self.root / "Annotations" / f"{stem}.xml").write_text(text)
            num_images += not damaged
            faults += damaged
            listed += [stem] * self.random.choice([1, 1, 1, 2])
        (self.root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (self.root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(listed))
        self.right[split] = Right(num_images, objects, 0, faults)

    def _labelme(self, split: str) -> None:
        objects: Counter[str] = Counter()
        faults = num_images = 0
        for number, (width, height) in enumerate(self._sizes()):
            self._image(self.root / split / f"{number}.png", (width, height))
            shapes = []
            lost = self.random.choice([None] * 9 + ["size", "text", "cut"])
            for place, box in enumerate(self._boxes(width, height)):
                label = NAMES[self.random.randrange(3)]
                kind = self.random.choice(list(LABELME_SHAPES))
                one = {"label": label, "group_id": None, "flags": {}, **LABELME_SHAPES[kind](*box, width, height)}
                parts = [one]
                if self.random.random() < 0.2:
                    parts = [{**part, "group_id": place} for part in (one, one | LABELME_SHAPES["polygon"](*box, 0, 0))]
                if kind.startswith("no "):  # of parts that are none, the polygon is left
                    objects[label] += len(parts) > 1 and not lost
                elif self.random.random() < 0.15:
                    parts = [self.random.choice(LABELME_FAULTS)(one)]
                    faults += not lost
                else:
                    objects[label] += not lost
                shapes += parts
            path = self.random.choice([f"{number}.png", f"..\\{split}\\{number}.png", f"C:\\old\\{number}.png", None])
            height += lost == "size"
            content = {"version": "7.9.1", "flags": {}, "shapes": shapes, "imagePath": path, "imageData": None}
            content |= {"imageHeight": str(height) if lost == "text" else height, "imageWidth": width}
            if self.random.random() < 0.2 and not lost:
                content |= {"imageHeight": None, "imageWidth": None}
            text = json.dumps(content)
            (self.root / split / f"{number}.json").write_text(text[: -3 if lost == "cut" else None])
            num_images += not lost
            faults += bool(lost)
        self.right[split] = Right(num_images, objects, 0, faults)


def _drawn(x: float, y: float, w: float, h: float) -> str:
    """Make the PNG file of a mask, as text."""
    file = io.BytesIO()
    Image.new("1", (round(x + w) - round(x), round(y + h) - round(y)), 1).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


LABELME_SHAPES = {
    "polygon": lambda x, y, w, h, *size: {"points": [[x, y], [x + w, y], [x, y + h]], "shape_type": "polygon"},
    "rectangle": lambda x, y, w, h, *size: {"points": [[x + w, y + h], [x, y]], "shape_type": "rectangle"},
    "circle": lambda x, y, w, h, *size: {"points": [[x + w / 2, y + h / 2], [x, y]], "shape_type": "circle"},
    "turned": lambda x, y, w, h, *size: {
        "points": [[x + w / 2, y], [x + w, y + h / 2], [x + w / 2, y + h], [x, y + h / 2]],
        "shape_type": "oriented_rectangle",
    },
    "mask": lambda x, y, w, h, *size: {
        "points": [[round(x), round(y)], [round(x + w) - 1, round(y + h) - 1]],
        "shape_type": "mask",
        "mask": _drawn(x, y, w, h),
    },
    "no area": lambda x, y, w, h, *size: {"points": [[x, y], [x + w, y + h]], "shape_type": "line"},
    "no points": lambda x, y, w, h, *size: {"points": [[x, y]], "shape_type": "point"},
}
LABELME_FAULTS = [
    lambda one: {**one, "label": ""},
    lambda one: {**one, "label": None},
    lambda one: {**one, "points": []},
    lambda one: {**one, "points": [[1, 2], [3, "4"], [5, 6]]},
    lambda one: {**one, "points": [[99, 99], [110, 99], [99, 110]], "shape_type": "polygon"},
    lambda one: {**one, "points": [[1, 1], [1, 1]], "shape_type": "rectangle"},
    lambda one: {**one, "points": [[1, 1], [4, 4]], "shape_type": "mask", "mask": "bm9uZQ=="},
    lambda one: {**one, "group_id": "1"},
]
COCO_FAULTS = {
    "no width": lambda one, w, h: one["bbox"].__setitem__(2, 0),
    "outside": lambda one, w, h: one["bbox"].__setitem__(0, w + 3),
    "category": lambda one, w, h: one.update(category_id=9),
    "text": lambda one, w, h: one.update(category_id="1"),
    "image": lambda one, w, h: one.update(image_id=99),
    "area": lambda one, w, h: one.update(area="abc"),
    "crowd": lambda one, w, h: one.update(iscrowd="0"),
    "counts": lambda one, w, h: one.update(segmentation={"size": [h, w], "counts": [3, 4]}),
    "line": lambda one, w, h: one.update(segmentation=[[1, 1, 5, 1, 9, 1]]),
    "points": lambda one, w, h: one.update(segmentation=[[1, 1, 5, 1]]),
}
COCO_OTHERS = {
    "rle": lambda one, w, h: one.update(segmentation={"size": [h, w], "counts": [0, 3, w * h - 3]}),
    "flat": lambda one, w, h: one.update(segmentation=one["segmentation"][0]),
    "stray": lambda one, w, h: one["segmentation"].append([1, 1]),
    "whole": lambda one, w, h: one.update(category_id=float(one["category_id"])),
}
YOLO_FAULTS = [
    lambda words: ["1.5", *words[1:]],
    lambda words: ["7", *words[1:]],
    lambda words: words[:4],
    lambda words: [*words[:-1], "nan"],
    lambda words: [words[0], "9", *words[2:]],
    lambda words: [*words[:1], "0.5", "0.5", "0", "0.1"],
]
