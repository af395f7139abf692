"""Copies of images, as merged exports have them, are counted in every task: held-out images are not to be learned."""

import shutil

import pytest

from class_folders import make_class_folders
from mask_folders import make_mask_folders
from sgformer.tasks import folders
from sgformer.tasks.classification import data as classification
from sgformer.tasks.classification.options import DataOptions
from sgformer.tasks.images import Preprocessing
from sgformer.tasks.segmentation import data as segmentation
from sgformer.tasks.segmentation import options as segmentation_options

BOTH = "1 images are in training and in validation"
INSIDE = "1 images are copies of others"


def test_files_of_one_size_are_told_apart(tmp_path, monkeypatch):
    middle = bytes(9000)
    contents = [
        b"a" + middle,
        b"a" + middle,
        b"b" + middle,
        b"a" + middle[1:] + b"b",
        b"a",
        b"b",
        b"",
        b"long" + middle,
    ]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    (link := tmp_path / "link").hardlink_to(paths[2])
    (other := tmp_path / "middle").write_bytes(b"a" + middle[:4500] + b"c" + middle[4501:])
    assert folders.find_copies([*paths, other], [link, paths[4]], "xyzzzzzzzzx") == (2, 1, 1, 1, 0)
    assert folders.find_copies([*paths, paths[0], tmp_path / "missing"]) == (0, 0, 1, 0, 0)
    monkeypatch.setattr(folders, "LARGEST", 3)
    assert folders.find_copies(paths, [link]) == (1, 0, 0, 0, 0)


def test_copies_of_classes(tmp_path):
    root = make_class_folders(tmp_path / "set", num_train=3, num_val=2)

    def said():
        options = DataOptions(root=str(root), image_size=32, batch_size=2, workers=0)
        return str(classification.ClassificationData(options, Preprocessing(image_size=(32, 32))))

    plain = said()
    shutil.copy(root / "train" / "red" / "0.png", root / "val" / "red" / "9.png")
    assert BOTH not in plain
    assert BOTH in said()
    shutil.copy(root / "train" / "red" / "0.png", root / "train" / "blue" / "9.png")
    assert f"{INSIDE}, 1 in another class" in said()
    assert f"{BOTH};" in said()
    shutil.copy(root / "train" / "green" / "0.png", root / "val" / "red" / "8.png")
    assert "2 images are in training and in validation, 1 in another class" in said()


def test_copies_of_masked_images(tmp_path):
    root = make_mask_folders(tmp_path / "set")

    def said():
        options = segmentation_options.DataOptions(root=str(root), image_size=32, batch_size=2, workers=0)
        return str(segmentation.SegmentationData(options, Preprocessing(image_size=(32, 32))))

    plain = said()
    for split, name in (("val", "0.png"), ("train", "2.png")):
        for kind in ("images", "annotations"):
            shutil.copy(root / kind / "train" / "0.png", root / kind / split / name)
    assert BOTH not in plain
    assert f"{BOTH}; {INSIDE}" in said()


def test_copies_of_annotated_images(tmp_path):
    pytest.importorskip("pycocotools", reason="COCO's format needs pycocotools")
    from coco_files import PLAIN, make_rectangles, read

    root = make_rectangles(tmp_path / "set")
    assert str(read(root)) == PLAIN
    shutil.copy(root / "images" / "train" / "0.jpg", root / "images" / "val" / "1.jpg")
    shutil.copy(root / "images" / "train" / "0.jpg", root / "images" / "train" / "3.jpg")
    assert "train: images that are also in val: 1; images that are copies of others: 1" in str(read(root))
