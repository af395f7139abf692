"""Rules over random sets in the formats of COCO, YOLO, Pascal VOC and LabelMe.

What the first line counts is what is learned from and can be found. Whatever lies in the folders or stands in
data.yaml is used, is known junk, or is counted.
"""

import json
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")

from detection_sets import NAMES, SEEDS, Maker
from sgformer.tasks.detection.augment import AugmentOptions
from sgformer.tasks.detection.data import DetectionData
from sgformer.tasks.detection.evaluation import CocoMetric, make_report
from sgformer.tasks.detection.options import DataOptions
from sgformer.tasks.errors import DataError

FORMATS = ("coco", "yolo", "voc", "labelme")


def read(made, *, invalid="drop", masks=False):
    augment = AugmentOptions(flip=0.0)
    options = DataOptions(
        root=str(made.root),
        source=made.source,
        shorter_side=32,
        max_side=64,
        workers=0,
        invalid=invalid,
        augment=augment,
    )
    return DetectionData(options, masks=masks)


def perfect(target, masks):
    """What a detector without mistakes finds."""
    found = {name: target[name][target["iscrowd"] == 0] for name in ("boxes", "labels", *["masks"] * masks)}
    return {**found, "scores": found["boxes"].new_ones(len(found["boxes"]))}


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("source", FORMATS)
def test_what_is_counted_is_learned_from_and_can_be_found(tmp_path, source, seeds):
    learned_from = 0
    for seed in seeds:
        made = Maker(tmp_path / str(seed), source, seed)
        right, masks = made.right, source in ("coco", "labelme")
        if right["train"].faults + right["val"].faults:
            with pytest.raises(DataError):
                read(made, invalid="error", masks=masks)
        if not right["train"].objects.total() or not right["val"].num_images:
            with pytest.raises(DataError, match=r"nothing to learn from|no images|no categories"):
                read(made, masks=masks)
            continue
        module = read(made, masks=masks)
        line = str(module)
        splits = list(right.values())
        objects, crowds, images = (
            " + ".join(str(count) for count in counts)
            for counts in (
                [split.objects.total() for split in splits],
                [split.num_crowds for split in splits],
                [split.num_images for split in splits],
            )
        )
        assert f"{images} images, {objects} objects, {crowds} crowds" in line, seed
        assert all(f"{name} {right['train'].objects[name]}" in line for name in module.classes)
        for split, one in right.items():
            assert (f"{split}: {one.faults} faults left out" in line) == (one.faults > 0), seed
        # What is learned from, after all that is done to an image.
        samples = [module.dataset("train")[index] for index in range(right["train"].num_images)]
        labels = [label for _, target in samples for label in target["labels"].tolist()]
        counted = {name: labels.count(place) for place, name in enumerate(module.classes, 1)}
        assert counted == {name: right["train"].objects[name] for name in module.classes}, seed
        learned_from += len(labels)
        # What can be found.
        metric = CocoMetric(masks=masks)
        dataset = module.dataset("val")
        for index in range(len(dataset)):
            _, target = dataset[index]
            metric.update([perfect(target, masks)], [target])
        if right["val"].objects.total():
            report = make_report(metric, module.classes)
            assert report.num_objects == right["val"].objects.total()
            assert report.box["ap"] == pytest.approx(1), seed
            assert not masks or report.mask["ap"] == pytest.approx(1), seed
    assert learned_from > len(seeds)


JUNK = ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini", "labels.cache", "@eaDir/a.jpg", ".git/b.png")
OTHERS = ("x.heic", "y.HEIC", "z.json", "w.pdf", "noname", "more/q.png", "more/deep/r.jpeg", "s.tif", "t.zip")
IMAGES = (".png", ".jpeg", ".tif")
PLACES = {
    "coco": ["images", "annotations", "", "test"],
    "yolo": ["images/train", "labels/val", "images/test", ""],
    "voc": ["JPEGImages", "Annotations", "ImageSets", ""],
    "labelme": ["train", "val", "", "test"],
}


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("source", FORMATS)
def test_what_lies_there_is_used_or_junk_or_counted(tmp_path, source, seeds):
    for seed in seeds:
        made = Maker(tmp_path / str(seed), source, seed)
        draw = random.Random(seed)
        if not made.right["train"].objects.total() or not made.right["val"].num_images:
            continue
        before = unused(read(made))
        place = draw.choice(PLACES[source])
        # In YOLO's folders every image counts, and one that cannot be read is a fault.
        others = [name for name in OTHERS if source != "yolo" or Path(name).suffix not in IMAGES]
        added = draw.sample([*JUNK, *others], 5)
        for name in added:
            path = made.root / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"[]" if name.endswith(".json") else b"x")  # in LabelMe's folders a broken one is a fault
        if source == "yolo" and (entries := draw.sample(["test", "foo", "augment"], 2)):
            (made.root / "data.yaml").write_text(json.dumps({"names": NAMES, **dict.fromkeys(entries, "x")}))
            assert f"entries of data.yaml not used ({', '.join(sorted(entries))}): 2" in str(read(made))
        counted = unused(read(made))
        assert counted - before == sum(name in OTHERS for name in added), (seed, added)


def unused(module):
    return sum(map(int, re.findall(r" files in \S+ not used: (\d+)", str(module))))
